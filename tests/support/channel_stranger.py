"""A client that speaks a channel's wire by hand, and may say anything."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from typing import Any

from aloraserve_services.channel.credentials import new_nonce, proof
from aloraserve_services.channel.endpoint import Endpoint
from aloraserve_services.channel.messages import VERSION, Challenge, Hello, decode_to_gateway, encode


def frame(*messages: bytes) -> bytes:
    """Return encoded messages as one frame."""
    body = b"\xdd" + struct.pack(">I", len(messages)) + b"".join(messages)
    return struct.pack("<I", len(body)) + body


class Stranger:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def come(cls, endpoint: Endpoint) -> Stranger:
        """Connect."""
        return cls(*await asyncio.open_unix_connection(endpoint.socket))

    async def messages(self) -> list[Any]:
        """Return the messages of the next frame."""
        (length,) = struct.unpack("<I", await self.reader.readexactly(4))
        return decode_to_gateway(await self.reader.readexactly(length))

    async def greet(self, secret: bytes, version: int = VERSION) -> list[Any]:
        """Say who one is; return the answer."""
        challenge = (await self.messages())[0]
        assert isinstance(challenge, Challenge)
        nonce = new_nonce()
        self.writer.write(frame(encode(Hello(version, nonce, proof(secret, "gateway", challenge.nonce, nonce)))))
        return await self.messages()

    async def is_closed(self) -> bool:
        """Wait until the other end has closed."""
        with contextlib.suppress(ConnectionError):
            await self.reader.read()
        self.writer.close()
        return True
