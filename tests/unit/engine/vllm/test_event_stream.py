"""vLLM's KV events: what each one becomes, and that a real socket delivers them in order."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
import zmq.asyncio

from aloraserve.blocks import BlocksCleared, BlocksRemoved, BlocksStored, EventBatch
from aloraserve_services.engine.vllm.event_stream import EventStream, events_of


def stored(**parts: Any) -> dict[str, Any]:
    return {"type": "BlockStored", "block_hashes": [1, 2], "token_ids": [5, 6, 7, 8], "block_size": 2} | parts


def test_a_stored_event_of_the_base_model_has_what_vllm_said() -> None:
    event = stored(parent_block_hash=9, lora_id=None, lora_name=None, medium="CPU", extra_keys=None)
    assert events_of([event]) == [BlocksStored((1, 2), 9, (5, 6, 7, 8), tier="CPU")]


def test_what_vllm_leaves_out_has_its_default() -> None:
    assert events_of([stored()]) == [BlocksStored((1, 2), None, (5, 6, 7, 8), None, None, "GPU")]


def test_hashes_of_bytes_stay_bytes() -> None:
    found = events_of([stored(block_hashes=[b"x"], parent_block_hash=b"w")])
    assert found == [BlocksStored((b"x",), b"w", (5, 6, 7, 8))]


def test_a_parent_whose_hash_is_zero_is_a_parent() -> None:
    assert events_of([stored(parent_block_hash=0, extra_keys=[None])]) == [BlocksStored((1, 2), 0, (5, 6, 7, 8))]


def test_a_salt_behind_a_parent_is_that_of_the_first_block_behind_a_shared_prefix() -> None:
    found = events_of([stored(parent_block_hash=9, extra_keys=[("salt",), None])])
    assert found == [BlocksStored((1, 2), 9, (5, 6, 7, 8), cache_salt="salt")]


@pytest.mark.parametrize("parent", [None, 9])
def test_where_a_shared_prefix_ends_in_an_event_it_becomes_two(parent: int | None) -> None:
    found = events_of([stored(parent_block_hash=parent, extra_keys=[None, ("salt",)])])
    assert found == [BlocksStored((1,), parent, (5, 6)), BlocksStored((2,), 1, (7, 8), cache_salt="salt")]


def test_an_adapter_that_begins_right_behind_a_shared_prefix_keeps_its_place() -> None:
    keys = [("safety", 1, "salt"), ("safety",)]
    [found] = events_of([stored(parent_block_hash=9, lora_name="safety", extra_keys=keys)])
    assert (found.adapter, found.cache_salt, found.base_tokens) == ("safety", "salt", 1)


@pytest.mark.parametrize(
    ("adapter", "first_keys", "salt"),
    [
        (None, None, None),
        (None, [], None),
        (None, ["salt"], "salt"),
        (None, [["picture", 3], "salt"], "salt"),
        ("safety", ["safety"], None),
        ("safety", ["safety", "salt"], "salt"),
        ("safety", ["safety", ["picture", 3], "salt"], "salt"),
        ("safety", ["safety", "safety"], "safety"),
        ("safety", ["salt"], "salt"),
        ("safety", ["salt", "safety"], "salt"),
        ("safety", None, None),
    ],
)
def test_the_salt_is_the_string_of_the_first_block_that_is_not_the_adapter(
    adapter: str | None, first_keys: list[Any] | None, salt: str | None
) -> None:
    event = events_of([stored(lora_name=adapter, extra_keys=[first_keys, ["other"]])])[0]
    assert isinstance(event, BlocksStored)
    assert (event.adapter, event.cache_salt) == (adapter, salt)


@pytest.mark.parametrize("keys", [None, [], [None, None], [[], []]])
def test_without_keys_of_the_first_block_there_is_no_salt(keys: list[Any] | None) -> None:
    assert events_of([stored(extra_keys=keys)]) == [BlocksStored((1, 2), None, (5, 6, 7, 8))]


def test_removed_and_cleared_are_passed_on_in_order_and_the_unknown_is_not() -> None:
    raw = [
        {"type": "AllBlocksCleared"},
        {"type": "BlockRenamed", "block_hashes": [3]},
        {"type": "BlockRemoved", "block_hashes": [1, b"x"], "medium": "GPU"},
    ]
    assert events_of(raw) == [BlocksCleared(), BlocksRemoved((1, b"x"))]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A path short enough for a Unix socket."""
    made = Path(tempfile.mkdtemp(prefix="alora-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
async def stream(folder: Path) -> AsyncIterator[EventStream]:
    opened = EventStream(folder, replay_timeout_s=0.2)
    yield opened
    opened.close()


@pytest.fixture
async def publisher(stream: EventStream) -> AsyncIterator[zmq.asyncio.Socket]:
    """A publisher that came after its subscriber, and has met it."""
    context = zmq.asyncio.Context()
    socket = context.socket(zmq.SocketType.XPUB)
    socket.setsockopt(zmq.SocketOption.SNDHWM, 0)
    socket.bind(stream.endpoint)
    async with asyncio.timeout(60):
        assert await socket.recv() == b"\x01"
    yield socket
    socket.close(linger=0)
    context.term()


async def publish(publisher: zmq.asyncio.Socket, sequence: int, *events: dict[str, Any]) -> None:
    payload = msgspec.msgpack.encode([1.5, list(events), 0])
    await publisher.send_multipart([b"kv", sequence.to_bytes(8, "big"), payload])


async def received(stream: EventStream, count: int) -> list[EventBatch]:
    batches = stream.batches()
    async with asyncio.timeout(60):
        return [await anext(batches) for _ in range(count)]


async def test_batches_come_in_order_and_count_from_zero(stream: EventStream, publisher: zmq.asyncio.Socket) -> None:
    await publish(publisher, 300, stored())
    await publish(publisher, 301)
    await publish(publisher, 302, {"type": "BlockRemoved", "block_hashes": [1]}, {"type": "AllBlocksCleared"})
    assert await received(stream, 3) == [
        EventBatch(0, (BlocksStored((1, 2), None, (5, 6, 7, 8)),)),
        EventBatch(1, ()),
        EventBatch(2, (BlocksRemoved((1,)), BlocksCleared())),
    ]


async def test_a_gap_shows_also_when_the_batches_are_read_again(
    stream: EventStream, publisher: zmq.asyncio.Socket
) -> None:
    await publish(publisher, 7)
    assert [batch.sequence for batch in await received(stream, 1)] == [0]
    await publish(publisher, 9)
    assert [batch.sequence for batch in await received(stream, 1)] == [2]


async def test_what_was_published_before_it_is_read_waits(stream: EventStream, publisher: zmq.asyncio.Socket) -> None:
    for sequence in range(2000):
        await publish(publisher, sequence)
    assert [batch.sequence for batch in await received(stream, 2000)] == list(range(2000))


async def test_a_stream_that_nobody_publishes_to_closes_at_once(folder: Path) -> None:
    stream = EventStream(folder)
    await asyncio.wait_for(asyncio.to_thread(stream.close), 5)
    assert str(folder) in stream.endpoint


def test_an_integer_beside_the_adapter_s_name_is_where_in_its_block_it_starts() -> None:
    (event,) = events_of([stored(lora_name="x", extra_keys=[("x", 7, "salt"), ("x",)])])
    assert isinstance(event, BlocksStored)
    assert (event.base_tokens, event.adapter, event.cache_salt) == (7, "x", "salt")


@pytest.fixture
def real_publisher(folder: Path) -> Iterator[Any]:
    """vLLM's own publisher, with the sockets that a stream looks for."""
    kv_events = pytest.importorskip("vllm.distributed.kv_events")
    made = kv_events.ZmqEventPublisher(
        0, endpoint=f"ipc://{folder}/kv", replay_endpoint=f"ipc://{folder}/replay", buffer_steps=50
    )
    yield made
    made.shutdown()


class Missing(EventStream):
    """A stream on whose way some batches are lost."""

    lost: frozenset[int] = frozenset()

    async def _received(self) -> AsyncIterator[EventBatch]:
        async for batch in super()._received():
            if batch.sequence not in self.lost:
                yield batch


async def told(folder: Path, publisher: Any, count: int, lost: frozenset[int]) -> list[EventBatch]:
    """Publish until the subscription is there, then ``count`` more, of which some are lost; return these."""
    from vllm.distributed.kv_events import BlockRemoved, KVEventBatch

    def removed(number: int) -> Any:
        return KVEventBatch(ts=0.0, events=[BlockRemoved(block_hashes=[number], medium="CPU")])

    stream = Missing(folder, replay_timeout_s=5)
    batches = stream.batches()
    first = asyncio.ensure_future(anext(batches))
    number = 0
    while not first.done():
        publisher.publish(removed(number))
        number += 1
        await asyncio.wait({first}, timeout=0.05)
    begun = (await first).events[0].hashes[0]  # type: ignore[union-attr]
    assert isinstance(begun, int)
    stream.lost = frozenset(number + one for one in lost)
    for one in range(number, number + count):
        publisher.publish(removed(one))
    found = []
    async with asyncio.timeout(20):
        while not found or found[-1].sequence < number + count - 1 - begun:
            found.append(await anext(batches))
    stream.close()
    return [batch for batch in found if batch.sequence >= number - begun]


async def test_vllm_s_publisher_closes_a_gap_by_its_replay(folder: Path, real_publisher: Any) -> None:
    found = await told(folder, real_publisher, 30, frozenset((3, 4, 10)))
    numbers = [batch.sequence for batch in found]
    assert numbers == list(range(numbers[0], numbers[0] + 30))
    hashes = [batch.events[0].hashes[0] for batch in found]  # type: ignore[union-attr]
    assert hashes == list(range(hashes[0], hashes[0] + 30))  # type: ignore[arg-type,operator]
    assert all(batch.events == (BlocksRemoved((batch.events[0].hashes[0],), tier="CPU"),) for batch in found)  # type: ignore[union-attr]


async def test_a_gap_that_vllm_s_publisher_has_forgotten_stays(folder: Path, real_publisher: Any) -> None:
    found = await told(folder, real_publisher, 200, frozenset(range(2, 100)))
    numbers = [batch.sequence for batch in found]
    assert numbers[:2] == [numbers[0], numbers[0] + 1]
    assert numbers[2] > numbers[1] + 1
