"""A platform where everything around it is odd, and what becomes of it when its parts are killed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.timeout(300)]
NOBODY = "http://192.0.2.1:3128"
"""A proxy that is not there (RFC 5737)."""
PROXIES = dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"), NOBODY)
SERVICE_LINKS = {
    "ALORASERVE_PORT": "tcp://10.96.0.17:8000",
    "ALORASERVE_SERVICE_HOST": "10.96.0.17",
    "ALORASERVE_GATEWAY_PORT_8000_TCP_PROTO": "tcp",
    "VLLM_PORT": "tcp://10.96.0.18:8000",
}
SECRET = "ALORASERVE_CELL_REDIS_URLS"
"""May hold passwords; empty here."""
COMMAND = (sys.executable, "-P", "-m", "aloraserve_services.cli.main")
"""What the installed command does: the current folder is not where modules are looked for."""
DEAD = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


@dataclass
class Odd:
    """A platform in odd surroundings.

    Args:
        process: ``aloraserve up`` in the foreground.
        lines: iterates over what it says.
        state_dir: its state folder.
        http: a client of it.
        environment: that it was started in.
    """

    process: subprocess.Popen[str]
    lines: Iterator[str]
    state_dir: Path
    http: httpx.Client
    environment: dict[str, str]

    def part(self, name: str) -> psutil.Process:
        """Return a process of its own by its program."""
        [found] = [each for each in psutil.Process(self.process.pid).children() if name in each.name()]
        return found

    def command(self, *arguments: str) -> str:
        """Return what a command says of it."""
        shown = subprocess.run(
            [*COMMAND, *arguments, "--state-dir", str(self.state_dir)],
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=60,
        )
        assert shown.returncode == 0, shown.stderr
        return shown.stdout

    def until(self, words: str) -> str:
        """Return the line that has these words."""
        return next(line for line in self.lines if words in line)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory, model_path: Path) -> Iterator[Odd]:
    root = tmp_path_factory.mktemp("odd")
    state_dir, temporary, shadows = root / "my 'st\"até\nof affairs", root / "a long and odd TMPDIR", root / "shadows"
    temporary.mkdir()
    for name in ("redis", "vllm", "psutil"):
        (shadows / name).mkdir(parents=True)
        (shadows / name / "__init__.py").write_text("raise ImportError('shadowed')")
    odd_variables = {"TMPDIR": str(temporary), "RAY_ADDRESS": "ray://192.0.2.1:10001", **PROXIES, **SERVICE_LINKS}
    environment = {**os.environ, **odd_variables, SECRET: "[]", "COLUMNS": "200"}
    for name in ("NO_PROXY", "no_proxy"):
        environment.pop(name, None)
    with socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        port = probe.getsockname()[1]
    flags = ("--engine", "simulated", "--replicas", "1", "--model", str(model_path), "--state-dir", str(state_dir))
    process = subprocess.Popen(
        [*COMMAND, "up", *flags, "--host", "::1", "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd=shadows,
    )
    assert process.stdout is not None
    with httpx.Client(base_url=f"http://[::1]:{port}", trust_env=False, timeout=60) as client:
        platform = Odd(process, iter(process.stdout), state_dir, client, environment)
        try:
            seen = []
            for line in platform.lines:
                seen.append(line)
                if "stop with Ctrl-C" in line:
                    break
            else:
                pytest.fail("it did not start: " + "".join(seen[-5:]))
            yield platform
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)


def test_it_serves_whatever_surrounds_it(odd: Odd) -> None:
    [model, *_] = [entry["id"] for entry in odd.http.get("/v1/models").json()["data"]]
    answer = odd.http.post("/v1/completions", json={"model": model, "prompt": "The ferry", "max_tokens": 2})
    assert answer.status_code == 200, answer.text
    targets = odd.http.get("/v1/metrics/targets").json()
    assert len(targets) == 2
    assert "safety" in odd.command("status")
    assert "loaded on" in odd.command("adapters", "ls")
    assert SECRET in odd.environment
    started = psutil.Process(odd.process.pid).children(recursive=True)
    assert not [part.name() for part in started if SECRET in environment_of(part)], "nobody else has the secrets"


def environment_of(process: psutil.Process) -> dict[str, str]:
    try:
        return dict(process.environ())
    except psutil.Error:
        return {}


def requests_used(odd: Odd) -> int:
    return sum(used["total"]["requests"] for used in odd.http.get("/v1/usage?days=1").json()["tenants"])


def test_an_embedded_redis_that_is_killed_is_started_again_and_tenants_use_stays(odd: Odd) -> None:
    [base, *_] = [entry["id"] for entry in odd.http.get("/v1/models").json()["data"]]
    assert odd.http.post("/v1/completions", json={"model": base, "prompt": "a", "max_tokens": 1}).status_code == 200
    before, used = odd.part("valkey"), requests_used(odd)
    assert used > 0
    folder = odd.state_dir / "usage-default"
    wait_until(lambda: f'"requests":{used}' in "".join(path.read_text() for path in folder.glob("*.json")), "the copy")
    before.kill()
    assert odd.until("started again, empty")
    assert odd.part("valkey").pid != before.pid
    assert odd.http.get("/readyz").status_code == 200
    wait_until(lambda: requests_used(odd) == used, "use to be put back")
    wait_until(
        lambda: "the embedded Redis ended and was started again once" in odd.command("status"), "status to say so"
    )


def test_it_ends_with_an_error_when_a_part_of_ray_is_gone_and_nothing_stays(odd: Odd) -> None:
    process = psutil.Process(odd.process.pid)
    started = process.children(recursive=True)
    folders = {Path(word) for part in started for word in part.cmdline() if word.startswith("/tmp/alora-")}
    odd.part("gcs_server").kill()
    assert "Ray's gcs_server has ended" in odd.until("error:")
    assert odd.process.wait(30) == 1
    _, alive = psutil.wait_procs(started, timeout=30)
    assert [part for part in alive if part.status() not in DEAD] == []
    assert not [folder for folder in folders if folder.exists()]
    assert not (odd.state_dir / "run.json").exists()
