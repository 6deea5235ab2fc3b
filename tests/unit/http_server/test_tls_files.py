"""Certificates are replaced while a server runs; what cannot be used does not replace anything."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from starlette.responses import PlainTextResponse
from structlog.testing import capture_logs
from support.certificates import Files, write_certificate
from support.http_server import Served, get, serving

from aloraserve.errors import SettingsError
from aloraserve_services.http_server import tls_files
from aloraserve_services.http_server.tls import own_context
from aloraserve_services.http_server.tls_files import TlsFiles, TlsMaterial

APP = PlainTextResponse("ok")
NAMES = ("tls.crt", "tls.key")


def put(source: Files, folder: Path) -> Files:
    """Write files as Kubernetes mounts a secret: the names are links into a folder that is swapped as a whole."""
    whole = folder / f"..{source[0].stem}"
    whole.mkdir()
    for file, name in zip(source, NAMES, strict=True):
        (whole / name).write_bytes(file.read_bytes())
    link = folder / "..new"
    link.symlink_to(whole.name)
    link.replace(folder / "..data")
    files = folder / NAMES[0], folder / NAMES[1]
    for file in files:
        if not file.is_symlink():
            file.symlink_to(Path("..data") / file.name)
    return files


@pytest.fixture
def mounted(tmp_path: Path) -> Path:
    folder = tmp_path / "mounted"
    folder.mkdir()
    return folder


@pytest.fixture
def files(tmp_path: Path, mounted: Path) -> Files:
    return put(write_certificate(tmp_path, "first"), mounted)


@contextlib.asynccontextmanager
async def followed(tls: TlsFiles, server: Served, refused: Callable[[], None] = lambda: None) -> AsyncIterator[None]:
    async def use(material: TlsMaterial) -> None:
        await server.server.use_tls(material.context)

    following = asyncio.create_task(tls.follow(use, refused, every_s=0.01))
    try:
        yield
    finally:
        following.cancel()


async def shown(server: Served) -> str:
    """Return whose certificate a new connection is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await server.connect(context)
    try:
        certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(certificate).subject.rfc4514_string().removeprefix("CN=")
    finally:
        writer.close()


async def until(server: Served, name: str) -> None:
    async with asyncio.timeout(20):
        while await shown(server) != name:  # noqa: ASYNC110 - it shows when a client asks
            await asyncio.sleep(0.01)


async def test_a_new_certificate_is_shown_and_open_connections_go_on(
    files: Files, tmp_path: Path, mounted: Path
) -> None:
    tls = TlsFiles(*files)
    async with serving(APP, tls=tls.current.context) as server, followed(tls, server):
        assert await shown(server) == "first"
        reader, writer = await server.connect(own_context(files[0]))
        put(write_certificate(tmp_path, "second"), mounted)
        await until(server, "second")
        writer.write(get("/"))
        assert (await reader.read()).endswith(b"ok")
        writer.close()


async def test_clients_of_a_new_authority_are_let_in_and_those_of_the_old_one_no_more(tmp_path: Path) -> None:
    own, old, new = (write_certificate(tmp_path, name) for name in ("own", "old", "new"))
    authority = tmp_path / "ca.pem"
    authority.write_bytes(old[0].read_bytes())
    tls = TlsFiles(*own, authority)

    async def is_let_in(server: Served, client: Files) -> bool:
        context = own_context(own[0])
        context.load_cert_chain(*client)
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            reader, writer = await server.connect(context)
            writer.write(get("/"))
            answer = await reader.read()
            writer.close()
            return answer.endswith(b"ok")
        return False

    async with serving(APP, tls=tls.current.context) as server, followed(tls, server):
        assert [await is_let_in(server, client) for client in (old, new)] == [True, False]
        authority.write_bytes(new[0].read_bytes())
        async with asyncio.timeout(20):
            while not await is_let_in(server, new):  # noqa: ASYNC110 - likewise
                await asyncio.sleep(0.01)
        assert not await is_let_in(server, old)


def expired(folder: Path) -> Files:
    return write_certificate(folder, "expired", days=(-3, -1))


def not_yet_valid(folder: Path) -> Files:
    return write_certificate(folder, "early", days=(1, 3))


def mismatched(folder: Path) -> Files:
    return write_certificate(folder, "one")[0], write_certificate(folder, "other")[1]


def rubbish(folder: Path) -> Files:
    files = write_certificate(folder, "rubbish")
    files[0].write_text("hello")
    return files


WRONG = pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        (expired, "is valid from .* UTC, not now"),
        (not_yet_valid, "is valid from .* UTC, not now"),
        (mismatched, "the key is not the certificate's"),
        (rubbish, "they are not PEM files"),
    ],
)


@WRONG
def test_files_that_cannot_be_used_are_refused_at_the_start(
    tmp_path: Path, wrong: Callable[[Path], Files], fault: str
) -> None:
    with pytest.raises(SettingsError, match=fault):
        TlsFiles(*wrong(tmp_path))


@pytest.fixture
def records() -> Iterator[list[dict[str, object]]]:
    with capture_logs() as found:
        yield found  # type: ignore[misc]


@WRONG
async def test_files_that_cannot_be_used_replace_nothing_and_are_reported_once(
    files: Files,
    tmp_path: Path,
    mounted: Path,
    records: list[dict[str, object]],
    wrong: Callable[[Path], Files],
    fault: str,
) -> None:
    tls, refusals = TlsFiles(*files), asyncio.Event()
    async with serving(APP, tls=tls.current.context) as server, followed(tls, server, refusals.set):
        put(wrong(tmp_path), mounted)
        await asyncio.wait_for(refusals.wait(), 20)
        assert await shown(server) == "first"
        put(write_certificate(tmp_path, "mended"), mounted)
        await until(server, "mended")
    assert [record["event"] for record in records] == ["tls_files_refused", "tls_files_loaded"]


async def test_files_that_vanish_amid_a_look_do_not_end_the_following(
    files: Files, tmp_path: Path, mounted: Path, records: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tls, refusals = TlsFiles(*files), asyncio.Event()

    def vanished(*paths: Path | None) -> ssl.SSLContext:
        monkeypatch.undo()
        raise FileNotFoundError("gone")

    async with serving(APP, tls=tls.current.context) as server, followed(tls, server, refusals.set):
        monkeypatch.setattr(tls_files, "server_context", vanished)
        put(write_certificate(tmp_path, "second"), mounted)
        await asyncio.wait_for(refusals.wait(), 20)
        await until(server, "second")
    assert [record["event"] for record in records] == ["tls_files_refused", "tls_files_loaded"]


def test_files_that_are_gone_leave_the_others_in_use(files: Files) -> None:
    tls = TlsFiles(*files)
    before = tls.current
    files[1].unlink()
    with pytest.raises(SettingsError, match=r"tls_key is .*, which cannot be read"):
        tls.reload()
    assert tls.current is before


def test_the_same_files_are_nothing_new_and_the_key_is_not_shown(files: Files) -> None:
    tls = TlsFiles(*files)
    assert tls.reload() is False
    assert "PRIVATE" not in repr(tls.current)
