"""A replica's certificate, whatever the clocks of two machines say."""

from __future__ import annotations

import asyncio
import ssl

import pytest
from cryptography import x509

from aloraserve_services.channel.credentials import client_context, server_context


async def test_a_replica_is_reached_whatever_the_clocks_say() -> None:
    served, pem = server_context()
    certificate = x509.load_pem_x509_certificate(pem.encode())
    assert (certificate.not_valid_before_utc.year, certificate.not_valid_after_utc.year) == (2000, 9999)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"here")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=served)
    async with server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_context(pem))
        assert await reader.read() == b"here"
        writer.close()


async def test_another_replicas_certificate_is_refused() -> None:
    served, _ = server_context()
    _, other = server_context()
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0, ssl=served)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection("127.0.0.1", port, ssl=client_context(other))
