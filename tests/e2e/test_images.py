"""The gateway's image: the Dockerfile's own steps, then a platform of it, as it runs in a container."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.image_root import STATE, ImageRoot, image_root
from support.own_valkey import valkey_server
from support.redis_deployments import free_port

import aloraserve

USER = 10001
KEY = "image-key-0123456789"
START_S = 120.0
EXIT_STOPPED = 130

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.untimed,
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root, for mounts of its own"
    ),
]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageRoot]:
    """The gateway's image, built and read-only, with an empty state folder."""
    with contextlib.ExitStack() as stack:
        try:
            root = stack.enter_context(image_root(tmp_path_factory.mktemp("image")))
        except OSError as error:
            pytest.skip(str(error))
        root.build({"PROFILE": "gateway"})
        root.make_read_only()
        yield root


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    port = free_port()
    with valkey_server(port=port):
        yield f"redis://127.0.0.1:{port}/0"


@pytest.fixture(scope="module")
def running(image: ImageRoot, redis_url: str, model_path: Path) -> Iterator[tuple[str, int]]:
    """A platform of simulated engines in it, as its user: its address and port. They need no weights."""
    files = [str(path) for path in model_path.iterdir() if path.suffix != ".safetensors"]
    image.outside("mkdir", image.path(f"{STATE}/model"), image.path(f"{STATE}/adapters"))
    image.outside("cp", *files, image.path(f"{STATE}/model"))
    image.outside("chown", "-R", f"{USER}:{USER}", image.path(STATE))
    port = free_port()
    variables = {
        "ALORASERVE_PORT": str(port),
        "ALORASERVE_REDIS_URL": redis_url,
        "ALORASERVE_API_KEYS": json.dumps({"tenant": KEY}),
        "ALORASERVE_LOOKUP_BUDGET_MS": "500",
    }
    folders = ("--model", f"{STATE}/model", "--adapters-dir", f"{STATE}/adapters")
    flags = ("--host", "0.0.0.0", "--engine", "simulated", "--replicas", "1", *folders)
    process = subprocess.Popen(
        image.command("tini", "-s", "--", "aloraserve", "up", *flags, user=USER, **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        _wait_until_ready(process, f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}", port
    finally:
        process.terminate()
        output, _ = process.communicate(timeout=60)
    assert process.returncode == EXIT_STOPPED, output


def _wait_until_ready(process: subprocess.Popen[str], url: str) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"it ended with {process.returncode}: {process.communicate()[0]}")
        try:
            if httpx.get(f"{url}/readyz", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    pytest.fail("it is not ready")


def _healthcheck(image: ImageRoot, port: int) -> subprocess.CompletedProcess[str]:
    script = "/usr/local/lib/aloraserve/healthcheck.py"
    return image.run("python", script, user=USER, ALORASERVE_PORT=str(port))


def test_the_gateway_s_image_has_neither_an_engine_nor_torch(image: ImageRoot) -> None:
    done = image.run("aloraserve", "--version", user=USER)
    assert done.stdout == f"aloraserve {aloraserve.__version__}\n", done.stderr
    for module in ("vllm", "torch", "pip"):
        assert "ModuleNotFoundError" in image.run("python", "-c", f"import {module}", user=USER).stderr


def test_its_doctor_looks_at_everything_and_finds_the_packages_right(image: ImageRoot) -> None:
    done = image.run("aloraserve", "doctor", "--json", "--engine", "simulated", user=USER)
    found = {finding["check"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert [finding for finding in found.values() if "the check itself failed" in finding["found"]] == []
    right = ("settings", "python", "packages", "variables", "temporary files")
    assert {name: found[name]["level"] for name in right} == dict.fromkeys(right, "ok"), found
    # It has no server built in.
    assert found["redis"]["level"] == "failed"
    assert "aloraserve[embedded-redis]" in found["redis"]["remedy"]


def test_its_list_of_parts_names_what_is_installed(image: ImageRoot) -> None:
    parts: dict[str, Any] = json.loads(image.run("cat", "/opt/aloraserve/sbom.cdx.json", user=USER).stdout)
    versions = {part["name"]: part["version"] for part in parts["components"]}
    code = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    installed = json.loads(image.run("python", "-c", code, user=USER).stdout)
    assert versions == installed
    assert {"aloraserve", "vllm-alora", "ray"} <= set(versions)


def test_nothing_is_written_but_state_and_temporary_files(image: ImageRoot) -> None:
    for place in ("/", "/opt/aloraserve", "/usr/local/lib/aloraserve", "/var/tmp"):
        assert "Read-only file system" in image.run("touch", f"{place}/written", user=0).stderr
    for place in (STATE, "/tmp"):
        assert image.run("touch", f"{place}/written", user=USER).returncode == 0


def test_a_platform_without_vllm_answers_as_a_user_who_can_write_nothing_else(running: tuple[str, int]) -> None:
    url, _ = running
    body = {"model": "model", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    headers = {"Authorization": f"Bearer {KEY}"}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=60, trust_env=False)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] == 4


def test_the_health_check_says_whether_the_gateway_is_ready(image: ImageRoot, running: tuple[str, int]) -> None:
    _, port = running
    assert _healthcheck(image, port).returncode == 0
    refused = _healthcheck(image, free_port())
    assert refused.returncode == 1
    assert "nothing answers at http://127.0.0.1:" in refused.stderr
