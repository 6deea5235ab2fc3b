"""One end of a connection: frames in and out, and pings that notice when the other end is gone."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from typing import Any, cast

import msgspec
import structlog

from aloraserve_services.channel.messages import MAX_FRAME_BYTES, Message, Ping, Pong, encode

PING_S = 2.0
SILENCE_S = 10.0
"""How long a ping may stay without an answer. An event loop that is held up for a moment must not cost its calls."""
_BATCH_BYTES = 256 << 10
"""Of messages that leave in one frame; what is longer is alone in one."""
_HEADER = struct.Struct("<I")
_ARRAY = struct.Struct(">BI")
_ARRAY_OF_32_BITS = 0xDD
_PING, _PONG = encode(Ping()), encode(Pong())

log = structlog.get_logger(__name__)


class FrameError(Exception):
    """Raised when what came is not a frame of this version's messages."""


class FramePeer(asyncio.Protocol):
    """Base of both ends of a connection; on the event loop that it is made on.

    What is sent within one turn of the loop leaves in one write. A subclass takes messages in ``received`` and learns
    of the end in ``ended``, once. A ping is sent every :data:`PING_S` once :meth:`watch` was called.

    Args:
        decode: reads a frame's messages.
        max_bytes: longest frame that is taken in.

    Attributes:
        is_open: whether more can be sent.
    """

    def __init__(self, decode: Any, max_bytes: int = MAX_FRAME_BYTES) -> None:
        self.is_open = False
        self._decode = decode
        self._max_bytes = max_bytes
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._buffer = bytearray()
        self._needed = 0
        self._ready: list[bytes] = []
        self._cause = ""
        self._pinged_at: float | None = None
        self._ticked_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def received(self, messages: Sequence[Any]) -> None:
        """Take in a frame's messages.

        Raises:
            FrameError: they mean nothing here.
        """
        raise NotImplementedError

    def ended(self, cause: str) -> None:
        """Note that the connection is closed; the other end may not have read all that was sent."""
        raise NotImplementedError

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._transport = cast(asyncio.Transport, transport)
        self.is_open = True

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio."""
        self.is_open = False
        if self._timer is not None:
            self._timer.cancel()
        self._buffer.clear()
        self._ready.clear()
        self.ended(self._cause or (type(error).__name__ if error else "the other end closed it"))

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._needed:
                return
            data = bytes(self._buffer)
            self._buffer.clear()
        try:
            self._read(data)
        except (FrameError, msgspec.MsgspecError, ValueError) as error:
            # msgspec's errors name a field and a type; none quotes what came.
            self.abort(f"what came is not this version's: {error}")

    def send(self, *messages: Message) -> None:
        """Send messages soon; nothing happens once the connection is closed.

        Raises:
            FrameError: a message is longer than a frame may be.
        """
        for message in messages:
            self._send(encode(message))

    def watch(self) -> None:
        """Begin to notice when the other end is gone."""
        self._ticked_at = self._loop.time()
        self._timer = self._loop.call_later(PING_S, self._tick)

    def close(self, cause: str) -> None:
        """Close the connection once all that was sent is written."""
        if self.is_open:
            self._flush()
            self.is_open = False
            self._cause = self._cause or cause
            self._transport.close()

    def abort(self, cause: str) -> None:
        """Close the connection at once."""
        self._cause = self._cause or cause
        self.is_open = False
        self._transport.abort()

    def _read(self, data: bytes) -> None:
        start, end = 0, len(data)
        view = memoryview(data)
        while self.is_open and end - start >= _HEADER.size:
            (length,) = _HEADER.unpack_from(data, start)
            if length > self._max_bytes:
                raise FrameError(f"a frame of {length} bytes; at most {self._max_bytes} are accepted")
            stop = start + _HEADER.size + length
            if stop > end:
                break
            self._take(self._decode(view[start + _HEADER.size : stop]))
            start = stop
        if start < end:
            self._buffer += view[start:]
            self._needed = self._length_at(data, start)

    def _length_at(self, data: bytes, start: int) -> int:
        """Return how many bytes the frame that begins there has, header included."""
        if len(data) - start < _HEADER.size:
            return _HEADER.size
        return _HEADER.size + int(_HEADER.unpack_from(data, start)[0])

    def _take(self, messages: list[Any]) -> None:
        kind = type(messages[0]) if messages else None
        if kind is Ping:
            self._signal(_PONG)
        elif kind is Pong:
            self._pinged_at = None
        elif messages:
            self.received(messages)

    def _signal(self, data: bytes) -> None:
        """Send a message in a frame of its own, after all that is ready."""
        self._flush()
        self._write([data], len(data))

    def _send(self, data: bytes) -> None:
        if len(data) > MAX_FRAME_BYTES - _ARRAY.size:
            raise FrameError(f"a message of {len(data)} bytes; at most {MAX_FRAME_BYTES - _ARRAY.size} can be sent")
        if not self.is_open:
            return
        if not self._ready:
            self._loop.call_soon(self._flush)
        self._ready.append(data)

    def _flush(self) -> None:
        ready, self._ready = self._ready, []
        if not ready or not self.is_open:
            return
        batch: list[bytes] = []
        size = 0
        for data in ready:
            if batch and size + len(data) > _BATCH_BYTES:
                self._write(batch, size)
                batch, size = [], 0
            batch.append(data)
            size += len(data)
        self._write(batch, size)

    def _write(self, batch: list[bytes], size: int) -> None:
        header = _HEADER.pack(size + _ARRAY.size) + _ARRAY.pack(_ARRAY_OF_32_BITS, len(batch))
        self._transport.write(b"".join((header, *batch)))

    def _tick(self) -> None:
        now, last = self._loop.time(), self._ticked_at
        self._ticked_at = now
        self._timer = self._loop.call_later(PING_S, self._tick)
        # Who was held up oneself has not read yet what the other end answered.
        was_held_up = now - last > 2 * PING_S
        if self._pinged_at is None:
            self._pinged_at = now
            self._signal(_PING)
        elif now - self._pinged_at > SILENCE_S and not was_held_up:
            self.abort(f"the other end did not answer for {now - self._pinged_at:.0f} s")
