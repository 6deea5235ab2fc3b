"""TLS: files that fit are served, any others are named at the start."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from starlette.responses import PlainTextResponse
from support.certificates import Files, write_certificate
from support.http_server import Served, get, serving

from aloraserve.errors import SettingsError
from aloraserve_services.http_server.limits import HttpLimits
from aloraserve_services.http_server.tls import own_context, server_context

APP = PlainTextResponse("ok")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return write_certificate(tmp_path, "api.example")


async def ask(server: Served, context: ssl.SSLContext) -> bytes:
    reader, writer = await server.connect(context)
    writer.write(get("/"))
    try:
        return await reader.read()
    finally:
        writer.close()


async def test_a_certificate_and_its_key_are_served(files: Files) -> None:
    async with serving(APP, tls=server_context(*files)) as server:
        assert (await ask(server, own_context(files[0]))).endswith(b"ok")
        stranger = ssl.create_default_context()
        with pytest.raises(ssl.SSLCertVerificationError):
            await ask(server, stranger)


def test_nothing_before_tls_1_2_is_spoken(files: Files) -> None:
    assert server_context(*files).minimum_version is ssl.TLSVersion.TLSv1_2


async def test_clients_need_a_certificate_where_a_client_ca_is_set(files: Files, tmp_path: Path) -> None:
    client = write_certificate(tmp_path, "client")
    async with serving(APP, tls=server_context(*files, client[0])) as server:
        known = own_context(files[0])
        known.load_cert_chain(*client)
        assert (await ask(server, known)).endswith(b"ok")
        unknown = own_context(files[0])
        unknown.load_cert_chain(*files)
        for context in (own_context(files[0]), unknown):
            # In TLS 1.3 a client has shaken hands before the server looks at its certificate.
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                assert await ask(server, context) == b""


async def test_a_handshake_that_does_not_come_ends_its_connection(files: Files) -> None:
    async with serving(APP, HttpLimits(head_timeout_s=0.1), server_context(*files)) as server:
        reader, writer = await server.connect()
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()


async def test_connections_count_from_when_they_are_accepted(files: Files) -> None:
    """Whoever opens many and shakes no hands holds no more than the server has room for, and keeps nobody out."""
    limits = HttpLimits(max_connections=3, max_surplus_connections=1, head_timeout_s=600)
    async with serving(APP, limits, server_context(*files)) as server, asyncio.timeout(30):
        silent = [await server.connect() for _ in range(12)]
        assert (await ask(server, own_context(files[0]))).endswith(b"ok")
        held = 4
        closed = [asyncio.create_task(reader.read()) for reader, _ in silent[: -held + 1]]
        assert set(await asyncio.gather(*closed, return_exceptions=True)) == {b""}
        waiting = asyncio.create_task(silent[-1][0].read())
        assert (await ask(server, own_context(files[0]))).endswith(b"ok")
        assert not waiting.done(), "there was room for the last ones"
        await server.server.close()
        assert await waiting == b""
        for _, writer in silent:
            writer.close()


async def test_more_connections_than_there_is_room_for_are_closed_with_tls_too(files: Files) -> None:
    limits = HttpLimits(max_connections=1, max_surplus_connections=0, head_timeout_s=600)
    context = own_context(files[0])
    async with serving(APP, limits, server_context(*files)) as server, asyncio.timeout(30):
        _, first = await server.connect(context)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await server.connect(context)
        first.close()


def other_key(files: Files, folder: Path) -> Files:
    return files[0], write_certificate(folder, "other")[1]


def with_passphrase(files: Files, folder: Path) -> Files:
    return write_certificate(folder, "locked", serialization.BestAvailableEncryption(b"secret"))


def no_pem(files: Files, folder: Path) -> Files:
    files[0].write_text("hello")
    return files


def no_key_file(files: Files, folder: Path) -> Files:
    return files[0], folder / "nowhere.key"


def no_certificate_file(files: Files, folder: Path) -> Files:
    return folder / "nowhere.pem", files[1]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (other_key, "the key is not the certificate's"),
        (with_passphrase, "tls_key is .*locked.key', which needs a passphrase"),
        (no_pem, "they are not PEM files"),
        (no_key_file, "tls_key is .*nowhere.key', which cannot be read: No such file"),
        (no_certificate_file, "tls_certificate is .*nowhere.pem', which cannot be read"),
    ],
)
def test_files_that_do_not_fit_are_named(
    files: Files, tmp_path: Path, change: Callable[[Files, Path], Files], fault: str
) -> None:
    with pytest.raises(SettingsError, match=fault):
        server_context(*change(files, tmp_path))


def test_a_client_ca_that_is_none_is_named(files: Files, tmp_path: Path) -> None:
    rubbish = tmp_path / "ca.pem"
    rubbish.write_text("hello")
    with pytest.raises(SettingsError, match=r"tls_client_ca is .*ca\.pem', which is not a PEM file of certificates"):
        server_context(*files, rubbish)
