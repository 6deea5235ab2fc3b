"""``aloraserve doctor`` as a command: what it prints, its exit code, and faults that a whole machine has to have."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.redis_deployments import free_port

import aloraserve
from aloraserve.errors import StartError
from aloraserve.settings import Settings, load_settings
from aloraserve_services.doctor.base import Check, Finding, Level, examine, ok
from aloraserve_services.doctor.running_platform import look_at_grpc, look_at_http

COMMAND = [sys.executable, "-m", "aloraserve_services.cli.main", "doctor"]
DISKS = ("disk of state_dir", "disk of adapter_store", "disk of HF_HOME")
SECRET = "hunter2-hunter2-hunter2"
FAULTY = """
set -e
mount -t tmpfs -o size=64m tmpfs /dev/shm
mount -t tmpfs -o size=16m tmpfs /mnt
for folder in /tmp /var/tmp; do mount --bind $folder $folder; mount -o remount,bind,ro $folder; done
ulimit -n 256
exec "$@"
"""


def run(*arguments: str, before: tuple[str, ...] = (), **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ALORASERVE_")}
    command = [*before, *COMMAND, *arguments]
    return subprocess.run(
        command, text=True, capture_output=True, timeout=60, env={**kept, "COLUMNS": "200", **variables}
    )


def by_check(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, str]]:
    content = json.loads(done.stdout)
    assert content["ok"] is (done.returncode == 0)
    return {finding["check"]: finding for finding in content["findings"]}


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root, for mounts of its own")
def test_a_machine_with_too_little_of_everything_is_told_of_each() -> None:
    flags = ("--json", "--engine", "simulated", "--state-dir", "/mnt/state", "--port", str(free_port()))
    hub = {"ALORASERVE_MODEL": "org/model", "HF_HOME": "/mnt/hub"}
    done = run(*flags, before=("unshare", "--mount", "--propagation", "private", "sh", "-c", FAULTY, "sh"), **hub)
    assert done.returncode == 1, done.stderr
    found = by_check(done)
    wrong = {name: found[name]["level"] for name in ("limits", "shared memory", "temporary files", *DISKS)}
    assert wrong == {
        "limits": "failed",
        "shared memory": "warning",
        "temporary files": "failed",
    } | dict.fromkeys(DISKS, "failed")
    assert "0.1 GiB at /dev/shm" in found["shared memory"]["found"]
    assert "open files (ulimit -n) is 256" in found["limits"]["found"]
    assert all(finding["remedy"] for finding in found.values() if finding["level"] in ("warning", "failed"))


def test_a_table_has_what_to_do_below_each_fault_and_no_secret(tmp_path: Path) -> None:
    config = tmp_path / "aloraserve.yaml"
    url = f"redis://user:{SECRET}@127.0.0.1:{free_port()}/0"
    config.write_text(f"engine: simulated\nredis_url: {url}\napi_keys: {{tenant: {SECRET}}}\n")
    config.chmod(0o604)
    done = run("--config", str(config), "--state-dir", str(tmp_path), ALORASERVE_ADMIN_KEYS=f'{{"root": "{SECRET}-2"}}')
    assert done.returncode == 1, done.stderr
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    fault = next(number for number, line in enumerate(lines) if line[0] == "failed" and line[1].startswith("redis"))
    assert [word.strip() for word in lines[fault + 1]] == [
        "do:",
        "start it, open its port, or correct redis_url and its login",
    ]
    assert any(line[0] == "warning" and line[1].startswith("file of config") for line in lines)
    assert lines[-1][0] == "1"
    assert SECRET not in done.stdout + done.stderr


def test_wrong_settings_are_one_finding_and_the_rest_is_looked_at_all_the_same() -> None:
    found = by_check(run("--json", ALORASERVE_REPLICA="3"))
    assert found["settings"]["level"] == "failed"
    assert "unknown variable ALORASERVE_REPLICA" in found["settings"]["found"]
    assert found["packages"]["level"] == "ok"


def test_a_check_that_hangs_or_breaks_keeps_nobody_from_the_others() -> None:
    def hang() -> Iterator[Finding]:
        time.sleep(60)
        yield ok("hangs", "")

    def lose() -> Iterator[Finding]:
        raise StartError("it is gone")

    def break_down() -> Iterator[Finding]:
        raise RuntimeError(SECRET)

    checks = [
        Check("hangs", hang),
        Check("lost", lose),
        Check("breaks", break_down),
        Check("fine", lambda: [ok("fine", "")]),
    ]
    started = time.monotonic()
    findings = examine(checks, timeout_s=0.3)
    assert time.monotonic() - started < 30
    assert [finding.level for finding in findings] == [Level.FAILED, Level.FAILED, Level.FAILED, Level.OK]
    assert [finding.found for finding in findings[:2]] == ["no result after 0.3 s", "it is gone"]
    assert SECRET not in repr(findings)


def answers(**changes: Any) -> httpx.Client:
    """A client of a platform with these faults."""
    content: dict[str, Any] = {
        "/healthz": 200,
        "/readyz": 200,
        "/version": {"version": "0.32.0", "aloraserve": aloraserve.__version__},
        "/v1/models": 200,
        "/v1/replicas": {"replicas": [{}, {}]},
        "/v1/metrics/targets": [],
    } | changes

    def answer(request: httpx.Request) -> httpx.Response:
        found = content[request.url.path]
        return httpx.Response(found) if isinstance(found, int) else httpx.Response(200, json=found)

    return httpx.Client(base_url="http://platform", transport=httpx.MockTransport(answer))


DEAD = [{"targets": ["127.0.0.1:1"], "labels": {"process": "engine-0", "role": "engine"}}]


@pytest.mark.parametrize(
    ("change", "check", "level", "words"),
    [
        ({"/healthz": 500}, "platform", Level.FAILED, "/healthz answers 500"),
        ({"/readyz": 503}, "platform", Level.FAILED, "/readyz answers 503"),
        ({"/version": {"aloraserve": "0.0.9"}}, "version", Level.WARNING, "the gateway is 0.0.9"),
        ({"/v1/models": 401}, "key", Level.FAILED, "/v1/models answers 401"),
        ({"/v1/replicas": 403}, "replicas", Level.SKIPPED, "an administrator's key is needed"),
        ({"/v1/replicas": {"replicas": []}}, "replicas", Level.FAILED, "none is in the directory"),
        ({"/v1/replicas": {"replicas": [{}]}}, "replicas", Level.WARNING, "1 of 2"),
        ({"/v1/metrics/targets": DEAD}, "metrics", Level.FAILED, "engine-0 cannot be scraped"),
    ],
)
def test_a_fault_of_a_running_platform_is_named(change: dict[str, Any], check: str, level: Level, words: str) -> None:
    with answers() as client:
        assert {finding.level for finding in look_at_http(client, Settings())} <= {Level.OK, Level.SKIPPED}
    with answers(**change) as client:
        findings = {finding.check: finding for finding in look_at_http(client, Settings())}
    assert findings[check].level is level
    assert words in findings[check].found


@pytest.mark.parametrize(
    ("least", "live", "level", "found"),
    [
        (0, 0, Level.OK, "none without calls: min_replicas is 0"),
        (0, 1, Level.OK, "1 live"),
        (1, 0, Level.FAILED, "none is in the directory"),
        (3, 2, Level.WARNING, "2 of 3 at least"),
        (2, 2, Level.OK, "2 live"),
    ],
)
def test_with_autoscaling_the_lower_bound_is_what_there_is_to_be(
    least: int, live: int, level: Level, found: str
) -> None:
    settings = Settings(autoscaling=True, min_replicas=least, max_replicas=4)
    with answers(**{"/v1/replicas": {"replicas": [{}] * live}}) as client:
        findings = {finding.check: finding for finding in look_at_http(client, settings)}
    assert (findings["replicas"].level, findings["replicas"].found) == (level, found)


def test_something_else_at_the_address_is_named() -> None:
    with answers(**{"/version": {"name": "nginx"}}) as client, pytest.raises(StartError, match="not an aloraserve"):
        list(look_at_http(client, Settings()))


def test_a_grpc_port_that_nobody_serves_is_named(tmp_path: Path) -> None:
    settings = load_settings(grpc_port=free_port(), state_dir=tmp_path)
    assert settings.grpc_port is not None
    [finding] = look_at_grpc("http://127.0.0.1:8000", settings.grpc_port, None)
    assert (finding.level, finding.found) == (Level.FAILED, f"port {settings.grpc_port}: UNAVAILABLE")
