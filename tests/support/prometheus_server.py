"""A real Prometheus: the one on PATH, else Debian's package, unpacked into a cache folder without being installed."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aloraserve-tests" / "prometheus"
OBSERVABILITY = Path(__file__).parents[2] / "deploy" / "observability"


def tool(name: str) -> str:
    """Return the path of ``prometheus`` or ``promtool``; skip the test where there is neither a way to get it."""
    found = shutil.which(name) or _unpacked(name)
    if found is None:
        pytest.skip(f"{name} is not on PATH, and Debian's package prometheus cannot be downloaded with apt-get")
    return found


@cache
def _unpacked(name: str) -> str | None:
    binary = CACHE / "usr" / "bin" / name
    if not binary.exists() and shutil.which("apt-get") and shutil.which("dpkg"):
        CACHE.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(subprocess.SubprocessError):
            if not _download():
                subprocess.run(["apt-get", "-q", "update"], capture_output=True, timeout=120, check=False)
                _download()
        for package in CACHE.glob("prometheus_*.deb"):
            subprocess.run(["dpkg", "-x", str(package), str(CACHE)], check=True)
            package.unlink()
    return str(binary) if binary.exists() else None


def _download() -> bool:
    command = ["apt-get", "-q", "download", "prometheus"]
    return subprocess.run(command, cwd=CACHE, capture_output=True, timeout=120, check=False).returncode == 0


class Prometheus:
    """A running server.

    Args:
        url: of its API.
    """

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, trust_env=False, timeout=10)

    def close(self) -> None:
        """Close the connections to it."""
        self._http.close()

    def query(self, expr: str) -> list[dict[str, Any]]:
        """Return the series of an instant query."""
        answer = self._http.get("/api/v1/query", params={"query": expr}).json()
        assert answer["status"] == "success", f"{expr}: {answer}"
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def targets(self) -> list[dict[str, Any]]:
        """Return what it scrapes."""
        found: list[dict[str, Any]] = self._http.get("/api/v1/targets").json()["data"]["activeTargets"]
        return found

    def wait_until(self, expr: str, timeout_s: float = 120) -> None:
        """Wait until a query has a series."""
        deadline = time.monotonic() + timeout_s
        while not self.query(expr):
            assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {expr}"
            time.sleep(0.2)


@contextlib.contextmanager
def prometheus(folder: Path, gateway_url: str) -> Iterator[Prometheus]:
    """Run a server with the configuration that users get, for the gateway at ``gateway_url``; a scrape a second."""
    shutil.copytree(OBSERVABILITY / "rules", folder / "rules")
    config = (OBSERVABILITY / "prometheus.yml").read_text()
    config = config.replace("http://127.0.0.1:8000", gateway_url).replace(": 5s", ": 1s").replace(": 15s", ": 1s")
    assert gateway_url in config
    (folder / "prometheus.yml").write_text(config)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [tool("prometheus"), "--config.file=prometheus.yml", "--storage.tsdb.path=data"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], cwd=folder, stdout=log, stderr=log)
    try:
        with contextlib.closing(Prometheus(f"http://{address}")) as server:
            yield _ready(server, process, folder / "log")
    finally:
        process.terminate()
        process.wait(30)


def _ready(server: Prometheus, process: subprocess.Popen[bytes], log: Path) -> Prometheus:
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(httpx.TransportError):
            if server._http.get("/-/ready").status_code == 200:
                return server
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, "Prometheus is not ready within 60 s"
        time.sleep(0.1)
