"""Servers that adapters are fetched from: S3 and an OCI registry, on free ports of the loopback address."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support.redis_deployments import free_port

BUCKET = "adapters"
REGISTRY = "docker-registry"


@contextlib.contextmanager
def s3_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run moto with an empty bucket, the environment set for it; yield its URL.

    In a process of its own: vLLM looks at every value of every imported module as it starts, and Flask has values that
    raise then.
    """
    port = str(free_port())
    url = f"http://127.0.0.1:{port}"
    program = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port]
    process = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    environment = {
        "AWS_ENDPOINT_URL": url,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "key-id",
        "AWS_SECRET_ACCESS_KEY": "secret-key",
        "AWS_REGION": "us-east-1",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    try:
        _wait_for(f"{url}/moto-api/")
        httpx.put(f"{url}/{BUCKET}").raise_for_status()
        yield url
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def oci_registry(folder: Path) -> Iterator[str]:
    """Run Debian's registry on an empty folder; yield its host and port.

    Skips the test where the registry is not installed.
    """
    program = shutil.which(REGISTRY)
    if program is None:
        pytest.skip(f"no {REGISTRY} on this machine: apt-get install {REGISTRY}")
    host = f"localhost:{free_port()}"
    config = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "registry")}},
        "http": {"addr": host},
    }
    (folder / "registry.yml").write_text(json.dumps(config))
    process = subprocess.Popen([program, "serve", str(folder / "registry.yml")], stderr=subprocess.DEVNULL)
    try:
        _wait_for(f"http://{host}/v2/")
        yield host
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            httpx.get(url).raise_for_status()
            return
        except httpx.HTTPError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
