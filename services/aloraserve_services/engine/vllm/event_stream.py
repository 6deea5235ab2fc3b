"""vLLM's KV events, from its ZMQ publisher into the platform's own types (``vllm/distributed/kv_events.py``)."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from aloraserve.blocks import BlocksCleared, BlocksRemoved, BlocksStored, EngineEvent, EventBatch
from aloraserve_services.engine.vllm.event_replay import OrderedBatches

MAX_WAITING_BATCHES = 100_000
REPLAY_TIMEOUT_S = 2.0
"""vLLM's publisher looks for replay requests ten times per second, and between batches."""


class EventStream:
    """Receives an engine's event batches over Unix sockets in a private folder.

    Connect before the engine starts: the publisher drops what nobody listens to. Its replay holds the last 10,000
    batches (``ZmqEventPublisher``).

    Args:
        folder: private to this replica; the sockets are made there.
        replay_timeout_s: how long a replay may take.
    """

    def __init__(self, folder: Path, *, replay_timeout_s: float = REPLAY_TIMEOUT_S) -> None:
        self.endpoint = f"ipc://{folder}/kv"
        self.replay_endpoint = f"ipc://{folder}/replay"
        self._folder = folder
        self._replay_timeout_s = replay_timeout_s
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.SocketType.SUB)
        self._socket.setsockopt(zmq.SocketOption.RCVHWM, MAX_WAITING_BATCHES)
        self._socket.setsockopt(zmq.SocketOption.SUBSCRIBE, b"")
        self._socket.connect(self.endpoint)
        self._decoder = msgspec.msgpack.Decoder()
        self._ordered = OrderedBatches(self._received(), self._replayed)

    def batches(self) -> AsyncIterator[EventBatch]:
        """Yield batches in order; numbers start at 0 with the first one received.

        A gap is closed by replay, if the publisher still has what is missing.
        """
        return self._ordered.batches()

    def close(self) -> None:
        """Close the sockets without waiting for anything, and delete their folder."""
        self._context.destroy(linger=0)
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _received(self) -> AsyncIterator[EventBatch]:
        while True:
            _, sequence, payload = await self._socket.recv_multipart()
            yield self._batch(sequence, payload)

    async def _replayed(self, start: int) -> list[EventBatch]:
        """Ask for everything from a number on; what has come when the time is over counts."""
        found: list[EventBatch] = []
        # A socket a replay: answers to one that took too long would be taken for the next one's.
        socket = self._context.socket(zmq.SocketType.DEALER)
        try:
            socket.setsockopt(zmq.SocketOption.RCVHWM, MAX_WAITING_BATCHES)
            socket.connect(self.replay_endpoint)
            async with asyncio.timeout(self._replay_timeout_s):
                await socket.send_multipart([b"", start.to_bytes(8, "big")])
                while True:
                    _, _, sequence, payload = await socket.recv_multipart()
                    if int.from_bytes(sequence, "big", signed=True) < 0:
                        return found
                    found.append(self._batch(sequence, payload))
        except TimeoutError:
            return found
        finally:
            socket.close(linger=0)

    def _batch(self, sequence: bytes, payload: bytes) -> EventBatch:
        return EventBatch(int.from_bytes(sequence, "big"), tuple(events_of(self._decoder.decode(payload)[1])))


def events_of(raw: Iterable[dict[str, Any]]) -> list[EngineEvent]:
    """Return the platform's events for vLLM's, as decoded from msgpack.

    ``cache_salt`` is read from a block's extra keys, where vLLM puts it untagged after the adapter's name and the
    multimodal pairs: the one plain string that is not the adapter's name at index 0. It is in the first block's, or in
    those of the first block behind a shared prefix.
    """
    found: list[EngineEvent] = []
    for event in raw:
        match event["type"]:
            case "BlockStored":
                found += _stored(event)
            case "BlockRemoved":
                found.append(BlocksRemoved(tuple(event["block_hashes"]), tier=event.get("medium") or "GPU"))
            case "AllBlocksCleared":
                found.append(BlocksCleared())
    return found


def _stored(event: dict[str, Any]) -> list[BlocksStored]:
    """Return an event as one, or as two where a shared prefix ends in it and a tenant's salt begins."""
    adapter, keys = event.get("lora_name"), event.get("extra_keys") or []
    salts = [_cache_salt(of_block, adapter) for of_block in keys]
    begin = next((index for index, salt in enumerate(salts) if index and salt is not None), 0)
    hashes, token_ids = tuple(event["block_hashes"]), tuple(event["token_ids"])
    first = BlocksStored(
        hashes=hashes,
        parent=event.get("parent_block_hash"),
        token_ids=token_ids,
        adapter=adapter,
        cache_salt=salts[0] if salts else None,
        tier=event.get("medium") or "GPU",
        base_tokens=_base_tokens(keys[0] if keys else None),
    )
    if not begin:
        return [first]
    public = begin * (len(token_ids) // len(hashes))
    return [
        replace(first, hashes=hashes[:begin], token_ids=token_ids[:public]),
        replace(
            first,
            hashes=hashes[begin:],
            parent=hashes[begin - 1],
            token_ids=token_ids[public:],
            cache_salt=salts[begin],
            base_tokens=_base_tokens(keys[begin]),
        ),
    ]


def _base_tokens(keys: Sequence[Any] | None) -> int:
    """Return where in a block the adapter starts: the plugin's one bare integer among the keys."""
    return next((key for key in keys or () if type(key) is int), 0)


def _cache_salt(keys: Sequence[Any] | None, adapter: str | None) -> str | None:
    strings = [key for key in keys or () if isinstance(key, str)]
    if adapter is not None and strings[:1] == [adapter]:
        strings = strings[1:]
    return strings[0] if strings else None
