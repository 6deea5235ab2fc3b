"""vLLM's KV events, from its ZMQ publisher into the platform's own types (``vllm/distributed/kv_events.py``)."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterable
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

    ``cache_salt`` is read from block 0's extra keys, where vLLM puts it untagged after the adapter's name and the
    multimodal pairs: the one plain string that is not the adapter's name at index 0.
    """
    found: list[EngineEvent] = []
    for event in raw:
        match event["type"]:
            case "BlockStored":
                found.append(_stored(event))
            case "BlockRemoved":
                found.append(BlocksRemoved(tuple(event["block_hashes"]), tier=event.get("medium") or "GPU"))
            case "AllBlocksCleared":
                found.append(BlocksCleared())
    return found


def _stored(event: dict[str, Any]) -> BlocksStored:
    adapter = event.get("lora_name")
    return BlocksStored(
        hashes=tuple(event["block_hashes"]),
        parent=event.get("parent_block_hash"),
        token_ids=tuple(event["token_ids"]),
        adapter=adapter,
        cache_salt=_cache_salt(event, adapter),
        tier=event.get("medium") or "GPU",
        base_tokens=_base_tokens(event),
    )


def _base_tokens(event: dict[str, Any]) -> int:
    """Return where in its first block the adapter starts: the plugin's one bare integer among the keys."""
    first = (event.get("extra_keys") or [None])[0] or ()
    return next((key for key in first if type(key) is int), 0)


def _cache_salt(event: dict[str, Any], adapter: str | None) -> str | None:
    if event.get("parent_block_hash") is not None:
        return None
    first = (event.get("extra_keys") or [None])[0] or ()
    strings = [key for key in first if isinstance(key, str)]
    if adapter is not None and strings[:1] == [adapter]:
        strings = strings[1:]
    return strings[0] if strings else None
