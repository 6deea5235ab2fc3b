"""The bundled Redis, run by a real Valkey: its configuration, its command and its probes as they are in the pod."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from support.helm_tools import objects, of_kind, render
from support.redis_deployments import free_port
from support.redis_servers import SOURCES, server_binary

START_S = 30
PASSWORD = "a-password-of-the-release"


def container(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the container of the bundled Redis."""
    [only] = of_kind(found, "StatefulSet")["spec"]["template"]["spec"]["containers"]
    return dict(only)


def test_it_starts_asks_for_its_password_and_is_ready_by_its_own_probe(tmp_path: Path) -> None:
    binary = server_binary("valkey-8")
    if binary is None:
        pytest.skip(f"there is no Valkey 8 here: {SOURCES['valkey-8']}")
    found = objects(render())
    port, only = free_port(), container(found)
    folders = {name: tmp_path / name for name in ("data", "etc", "tmp")}
    for folder in folders.values():
        folder.mkdir()
    config = of_kind(found, "ConfigMap", "r-aloraserve-redis")["data"]["valkey.conf"]
    config = config.replace("dir /data", f"dir {folders['data']}").replace(
        "bind * -::*", f"bind 127.0.0.1\nport {port}"
    )
    (folders["etc"] / "valkey.conf").write_text(config)
    environment = {"PATH": f"{binary.parent}:{os.environ['PATH']}", "REDISCLI_AUTH": PASSWORD}

    def here(text: str) -> str:
        places = {
            "/etc/valkey/": f"{folders['etc']}/",
            "/tmp/": f"{folders['tmp']}/",
            "valkey-cli": f"valkey-cli -p {port}",
        }
        return re.sub("|".join(places), lambda match: places[match[0]], text)

    def passes(probe: str, **other: str) -> bool:
        command = [here(part) for part in only[probe]["exec"]["command"]]
        return subprocess.run(command, env=environment | other, capture_output=True, timeout=10).returncode == 0

    command = [*only["command"], here(only["args"][0])]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_S
        while not passes("readinessProbe"):
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert passes("livenessProbe")
        assert not passes("readinessProbe", REDISCLI_AUTH="another")
        assert PASSWORD not in " ".join(Path(f"/proc/{server.pid}/cmdline").read_text().split("\0"))
        assert (folders["tmp"] / "valkey.conf").stat().st_mode & 0o077 == 0
        assert (folders["data"] / "appendonlydir").is_dir()
    finally:
        server.terminate()
        server.wait(30)
    assert not passes("livenessProbe")
