"""vLLM's KV events, from its ZMQ publisher into the platform's own types (``vllm/distributed/kv_events.py``)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from aloraserve.blocks import BlocksCleared, BlocksRemoved, BlocksStored, EngineEvent, EventBatch

MAX_WAITING_BATCHES = 100_000


class EventStream:
    """Receives an engine's event batches over a Unix socket in a private folder.

    Connect before the engine starts: the publisher drops what nobody listens to.

    Args:
        folder: private to this replica; the socket is made there.
    """

    def __init__(self, folder: Path) -> None:
        self.endpoint = f"ipc://{folder}/kv"
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.SocketType.SUB)
        self._socket.setsockopt(zmq.SocketOption.RCVHWM, MAX_WAITING_BATCHES)
        self._socket.setsockopt(zmq.SocketOption.SUBSCRIBE, b"")
        self._socket.connect(self.endpoint)
        self._first: int | None = None

    async def batches(self) -> AsyncIterator[EventBatch]:
        """Yield batches in order; sequence numbers start at 0 with the first one received."""
        decoder = msgspec.msgpack.Decoder()
        while True:
            _, sequence, payload = await self._socket.recv_multipart()
            number = int.from_bytes(sequence, "big")
            self._first = number if self._first is None else self._first
            yield EventBatch(number - self._first, tuple(events_of(decoder.decode(payload)[1])))

    def close(self) -> None:
        """Close the socket without waiting for anything."""
        self._socket.close(linger=0)
        self._context.term()


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
                found.append(BlocksRemoved(tuple(event["block_hashes"])))
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
