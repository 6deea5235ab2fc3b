"""``make loadtest`` on simulated engines: every arm and pipeline, a report, and an exit code for CI."""

from __future__ import annotations

import csv
import json
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.model import smollm2

from aloraserve_services.models.hardware import preferred_dtype
from loadtests.arms import ARMS
from loadtests.local import loadtest_platform
from loadtests.plan import PIPELINES

ROOT = Path(__file__).resolve().parents[2]
EXIT_FLAGS, EXIT_INTERRUPTED = 2, 130

pytestmark = pytest.mark.untimed


def loadtests(*arguments: str, timeout_s: float = 900) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loadtests", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s)


@pytest.fixture(scope="module")
def simulated_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    state_dir = tmp_path_factory.mktemp("state")
    smollm2(state_dir, preferred_dtype())
    with loadtest_platform(engine="simulated", replicas=2, policy="expected-ttft", state_dir=state_dir) as url:
        yield url


@pytest.mark.e2e
@pytest.mark.timeout(1200)
def test_a_load_test_compares_all_arms_and_fails_a_check_that_is_missed(tmp_path: Path) -> None:
    """Simulated engines prefill 500 tokens so fast that LoRA is not eight times slower through a gateway."""
    out = tmp_path / "report"
    flags = ("--engine", "simulated", "--length", "500", "--count", "1", "--state-dir", str(tmp_path / "state"))
    smollm2(tmp_path / "state", preferred_dtype())
    done = loadtests(*flags, "--check", "--out", str(out))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "MISSED: TTFT LoRA (first) : aLoRA at 500 tokens" in done.stdout
    content = json.loads((out / "report.json").read_text())
    rows = content["rows"]
    assert {row["arm"] for row in rows} == {*ARMS, "all"}
    assert {row["pipeline"] for row in rows} == set(PIPELINES)
    assert {row["state"] for row in rows if row["pipeline"] == "base-adapter"} == {"first", "returning"}
    assert all(row["n"] and not row["failed"] for row in rows)
    fields = {"pipeline", "arm", "state", "prompt_tokens", "n", "ttft_p50_s", "ttft_p90_s", "itl_p50_s", "e2e_p50_s"}
    assert all(fields | {"cached_share", "failed"} <= set(row) for row in rows)
    found = {
        (row["phase"], row["arm"], row["state"]): row["cached_share"]
        for row in rows
        if (row["pipeline"], row["step"]) == ("base-adapter", "evaluation")
    }
    assert found["sync", "alora", "first"] > 0.85
    assert found["sync", "lora", "first"] == 0
    assert content["savings"]["pairs"] > 0
    assert content["savings"]["estimated_s"] is not None
    assert (out / "report.html").read_text().count("<svg") >= 5
    with (out / "samples.csv").open() as file:
        assert len(list(csv.DictReader(file))) == sum(row["n"] for row in rows)


@pytest.mark.e2e
@pytest.mark.timeout(1200)
def test_one_with_a_time_says_how_long_it_takes_and_plays_what_fits(simulated_url: str, tmp_path: Path) -> None:
    """Some hundred samples of 7,000 tokens are more than a minute's, whatever the machine."""
    given = ("--phase", "sync", "--arm", "lora", "--length", "7000", "--count", "500", "--minutes", "1")
    done = loadtests("--url", simulated_url, "--out", str(tmp_path), *given)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "to fit 1 min, this is played" in done.stdout
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["facts"]["time"] in done.stdout
    assert 0 < max(row["n"] for row in content["rows"]) < 500


@pytest.mark.e2e
@pytest.mark.timeout(1200)
def test_one_that_is_interrupted_reports_what_it_has(simulated_url: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loadtests", "--url", simulated_url, "--out", str(tmp_path)]
    given = ("--phase", "sync", "--arm", "lora", "--arm", "alora", "--length", "500", "--count", "10000")

    def interruptible() -> None:
        # A background job's children ignore it.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(
        [*command, *given], cwd=ROOT, stdout=subprocess.PIPE, text=True, preexec_fn=interruptible
    ) as test:
        assert test.stdout is not None
        # The first progress is of some seconds.
        said = test.stdout.readline()
        test.send_signal(signal.SIGINT)
        said += test.stdout.read()
    assert test.returncode == EXIT_INTERRUPTED, said
    assert "interrupted" in said
    content = json.loads((tmp_path / "report.json").read_text())
    assert {row["arm"] for row in content["rows"]} == {"lora", "alora", "all"}
    assert content["facts"]["ended early"] == "interrupted"
    assert sum(row["failed"] for row in content["rows"]) == 0
    assert "ended early" in (tmp_path / "report.html").read_text()


@pytest.mark.e2e
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("mode", ["closed", "sync"])
def test_each_of_locusts_workers_plays_all_and_the_master_has_every_sample(
    mode: str, simulated_url: str, tmp_path: Path
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    phase = ("--loadtest-mode", mode, "--loadtest-count", "2", "--loadtest-length", "300")
    command = [sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py", "--host", simulated_url, *phase]
    leading = ("--master", "--headless", "--expect-workers", "2", "--master-bind-port", port)
    given = ("--users", "4", "--spawn-rate", "4", "--run-time", "900s", "--loadtest-out", str(tmp_path))
    workers = [subprocess.Popen([*command, "--worker", "--master-port", port], cwd=ROOT) for _ in range(2)]
    try:
        master = subprocess.run([*command, *leading, *given], cwd=ROOT, timeout=1000)
        assert [master.returncode, *(one.wait(120) for one in workers)] == [0, 0, 0]
    finally:
        for one in workers:
            one.kill()
    with (tmp_path / "samples.csv").open() as file:
        found = Counter((row["phase"], row["step"]) for row in csv.DictReader(file))
    # Two conversations of two turns with three intrinsics each; or each pipeline twice, base-adapter with two turns.
    conversations = {"base": 4, "evaluation": 12}
    pipelines = {"base": 8, "evaluation": 18, "after-adapter": 6, "whole": 8}
    expected = conversations if mode == "closed" else pipelines
    assert found == {(f"worker-{n}", step): count for n in range(2) for step, count in expected.items()}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--profile", "best"), "profile is 'best'; quick, full, trace are accepted"),
        (("--length", "3"), "length is 3"),
        (("--arm", "nobody"), "no phase is left"),
        (("--url", "ftp://x"), "url is 'ftp://x'"),
        (("--url", "http://127.0.0.1:9", "--data", "/nowhere"), "does not answer"),
    ],
)
def test_bad_flags_say_what_would_be_accepted(flags: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = loadtests(*flags, "--out", str(tmp_path), timeout_s=60)
    assert done.returncode in (EXIT_FLAGS, 3)
    assert message in " ".join(done.stdout.split())
