"""The command line: each way to fail has its exit code and one line that says what to do."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import Result
from typer.testing import CliRunner

import aloraserve
from aloraserve.diagnosis.account import Ladder, MissCause
from aloraserve_services.cli.console import EXIT_SETTINGS, EXIT_START
from aloraserve_services.cli.diagnose import CAUSES, RUNGS
from aloraserve_services.cli.main import app
from aloraserve_services.local import run_file

KEY = "hunter2-hunter2-hunter2"
ADMIN_KEY = "admin-hunter2-hunter2"
PARTS = dict.fromkeys(("queue_s", "decode_s", "slot_s", "adapter_s", "memory_s", "unknown_s", "tpot_s"), 0.0)
RECEIPT = {
    "request_id": "r-1",
    "adapter": "safety",
    "prompt_tokens": 1512,
    "policy": "expected-ttft",
    "reason": "engine-1 holds [480] tokens but has 9,000 queued",
    "candidates": [
        {"replica": "a", "label": "engine-0", "overlap_tokens": 0, "queued_tokens": 0, "expected_ttft_s": 0.512}
        | PARTS | {"prefill_s": 0.412, "adapter_s": 0.1},
        {"replica": "b", "label": "engine-1", "overlap_tokens": 480, "queued_tokens": 9000, "expected_ttft_s": 9.032}
        | PARTS | {"prefill_s": 0.032, "queue_s": 9.0},
    ],
    "candidate_count": 7,
    "replica": "a",
    "label": "engine-0",
    "claim": "claimed",
    "lookup_ms": 0.5,
    "policy_ms": 0.25,
    "claim_ms": 0.75,
    "attempts": [
        {"replica": "c", "label": "engine-2", "claim": "claimed", "outcome": "lost"},
        {"replica": "a", "label": "engine-0", "claim": "claimed", "outcome": "answered"},
    ],
    "cached_tokens": 16,
    "ttft_s": 0.6,
    "regret_s": 0.0,
    "missed": {"in_flight": 1024, "queue": 464},
}  # fmt: skip
LADDER = {"prompt": 200_000, "endless": 180_000, "capacity": 170_000, "routing": 160_000, "predicted": 150_000}
DIAGNOSIS = {
    "window_s": 900,
    "gateways": 2,
    "calls": 1234,
    "ladder": LADDER | {"delivered": 140_000},
    "missed": dict.fromkeys(MissCause, 0) | {"evicted": 30_000, "in_flight": 10_000},
}
QUIET = {
    "window_s": 60,
    "gateways": 1,
    "calls": 0,
    "ladder": dict.fromkeys((*LADDER, "delivered"), 0),
    "missed": dict.fromkeys(MissCause, 0),
}
SAVED = {"calls": 1200, "saved_tokens": 34_560, "net_saved_ttft_s": 12.34, "confidence": 0.875}
SAVINGS = {
    "window_s": 3600,
    "ledger": "ok",
    "total": SAVED,
    "adapters": [{"name": "[safety]", "kind": "alora", "cost": 0.125} | SAVED | {"net_saved_ttft_s": -0.5}],
}
Run = Callable[..., Result]
REPLICAS = {
    "model": "smollm2",
    "dtype": "float32",
    "policy": "expected-ttft",
    "block_tokens": 32,
    "directory": "ok",
    "known": ["r1"],
    "replicas": [
        {
            "label": "engine-0",
            "held_blocks": 40,
            "resident": ["safety"],
            "load": {
                "running": 1,
                "waiting": 2,
                "queued_prefill_tokens": 3000,
                "prefill_tokens_per_s": 456.7,
                "kv_usage": 0.25,
            },
        }
    ],
    "adapters": [{"name": "safety", "kind": "alora", "rank": 8, "digest": "ab", "untrained": True, "loaded": []}],
    "refused": [{"name": "broken", "reason": "[no] weights"}],
}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("ALORASERVE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a command with a state folder of its own."""

    def invoke(command: str, *arguments: str) -> Result:
        return CliRunner().invoke(app, [command, "--state-dir", str(tmp_path / "state"), *arguments])

    return invoke


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Platform(BaseHTTPRequestHandler):
    """Answers as a platform with one tenant does; without savings as one does that does not know them."""

    savings: dict[str, Any] | None = None

    def do_GET(self) -> None:
        answers = {
            "/v1/replicas": (KEY, REPLICAS),
            "/v1/savings?window=1h": (KEY, self.savings),
            "/v1/receipts/r-1": (ADMIN_KEY, RECEIPT),
            "/v1/diagnosis?window=15m": (ADMIN_KEY, DIAGNOSIS),
            "/v1/diagnosis?window=1m": (ADMIN_KEY, QUIET),
        }
        key, content = answers.get(self.path, (ADMIN_KEY, None))
        status = 401 if self.headers["Authorization"] != f"Bearer {key}" else 200 if content else 404
        self.send_response(status)
        self.end_headers()
        refusal = {"error": {"message": "there is no receipt" if status == 404 else "who are you"}}
        self.wfile.write(json.dumps(content if status == 200 else refusal).encode())

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def platform_url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Platform) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def one_line(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--port", "0"], "flag: port is '0'"),
        (["--host", "nowhere"], "flag: host is 'nowhere'"),
        (["--replicas", "0"], "flag: replicas is '0'"),
        (["--dtype", "int4"], "flag: dtype is 'int4'"),
        (["--policy", "random"], "flag: policy is 'random'"),
        (["--config", "/none.yaml"], "/none.yaml: cannot be read"),
    ],
)
def test_a_wrong_setting_ends_up_with_its_name(run: Run, tmp_path: Path, flags: list[str], named: str) -> None:
    for detach in ([], ["--detach"]):
        result = run("up", *flags, *detach)
        assert result.exit_code == EXIT_SETTINGS == 2
        assert f"error: {named}" in one_line(result.stderr)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def admin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALORASERVE_API_KEYS", json.dumps({"acme": KEY}))
    monkeypatch.setenv("ALORASERVE_ADMIN_KEYS", json.dumps({"root": ADMIN_KEY}))


@pytest.mark.usefixtures("admin")
def test_explain_shows_what_was_expected_of_each_candidate_and_what_came_of_it(run: Run, platform_url: str) -> None:
    result = run("explain", "--url", platform_url, "r-1")
    assert result.exit_code == 0, result.output
    lines = [one_line(line) for line in result.output.splitlines()]
    assert "policy expected-ttft: engine-1 holds [480] tokens but has 9,000 queued" in lines
    missed = "1,024 missed (in flight), 464 missed (queue)"
    assert f"answered by engine-0 after 600.0 ms, 16 tokens cached, {missed}; regret 0.0 ms" in lines
    assert any("2 of 7" in line for line in lines)
    chosen = next(line for line in lines if "engine-0 *" in line)
    assert all(figure in chosen for figure in ("512.0", "412.0", "100.0"))
    assert "slot" not in result.output, "parts that are zero everywhere take no column"
    assert "attempt 1: engine-2 lost (claim claimed)" in lines


@pytest.mark.usefixtures("admin")
def test_explain_gives_json_to_programs(run: Run, platform_url: str) -> None:
    assert json.loads(run("explain", "--url", platform_url, "--json", "r-1").stdout) == RECEIPT


@pytest.mark.usefixtures("admin")
@pytest.mark.parametrize("request_id", ["r-2", "../replicas", "a b/c?d"])
def test_explain_says_that_there_is_no_such_receipt(run: Run, platform_url: str, request_id: str) -> None:
    result = run("explain", "--url", platform_url, request_id)
    assert result.exit_code == 1
    assert "error: there is no receipt" in one_line(result.stderr)


@pytest.mark.usefixtures("admin")
def test_diagnose_shows_the_ladder_and_what_was_missed_the_most_first(run: Run, platform_url: str) -> None:
    result = run("diagnose", "--url", platform_url, "--window", "15m")
    assert result.exit_code == 0, result.output
    lines = [one_line(line) for line in result.output.splitlines()]
    assert "1,234 calls with 200,000 prompt tokens in 15 min, 2 gateways" in lines
    shown = [line for line in lines if "%" in line]
    assert [line.split()[1] for line in shown] == [*list(LADDER)[1:], "delivered", "evicted", "in"]
    assert all(figure in shown[4] for figure in ("140,000", "70.0%"))
    assert all(figure in shown[5] for figure in ("30,000", "15.0%"))


@pytest.mark.usefixtures("admin")
def test_diagnose_of_a_quiet_platform_and_as_json(run: Run, platform_url: str) -> None:
    assert "0 calls with 0 prompt tokens" in run("diagnose", "--url", platform_url, "--window", "1m").output
    result = run("diagnose", "--url", platform_url, "--window", "15m", "--json")
    assert json.loads(result.stdout) == DIAGNOSIS
    assert run("diagnose", "--url", platform_url, "--window", "../x").exit_code == 1


def test_every_cause_and_rung_has_words() -> None:
    assert set(CAUSES) == {cause.value for cause in MissCause}
    assert ["prompt", *RUNGS] == list(Ladder._fields)


def test_explain_needs_a_platform(run: Run) -> None:
    result = run("explain", "r-1")
    assert result.exit_code == EXIT_START
    assert "start one with `aloraserve up`" in one_line(result.stderr)


def test_explain_of_something_else_says_so(run: Run, free_port: int) -> None:
    result = run("explain", "--url", f"http://127.0.0.1:{free_port}", "r-1")
    assert result.exit_code == EXIT_START
    assert "nothing answers" in one_line(result.stderr)


@pytest.mark.parametrize("command", ["up", "demo", "status", "down"])
def test_every_command_refuses_a_wrong_variable(run: Run, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("ALORASERVE_PORT", "http")
    result = run(command)
    assert result.exit_code == EXIT_SETTINGS
    assert "environment: port is 'http'" in one_line(result.stderr)


def test_an_unknown_flag_is_a_wrong_setting_too(run: Run) -> None:
    assert run("up", "--prot", "1").exit_code == EXIT_SETTINGS


def test_a_demo_whose_report_cannot_be_written_does_not_start(run: Run, tmp_path: Path) -> None:
    result = run("demo", "--json", str(tmp_path / "none" / "demo.json"))
    assert result.exit_code == EXIT_SETTINGS
    assert "folder does not exist" in one_line(result.stderr)


def test_the_variable_that_names_the_file_is_read(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "aloraserve.yaml"
    file.write_text("replicas: 0")
    monkeypatch.setenv("ALORASERVE_CONFIG", str(file))
    result = run("up")
    assert result.exit_code == EXIT_SETTINGS
    assert "aloraserve.yaml: replicas is '0'" in "".join(result.stderr.splitlines())


@pytest.mark.parametrize("more", [[], ["--detach"]])
@pytest.mark.parametrize("option", ["--port", "--grpc-port"])
def test_a_port_that_is_taken_is_named_and_nothing_is_left(
    run: Run, tmp_path: Path, taken_port: int, free_port: int, option: str, more: list[str]
) -> None:
    result = run("up", *(() if option == "--port" else ("--port", str(free_port))), option, str(taken_port), *more)
    assert result.exit_code == EXIT_START == 3
    assert f"port {taken_port} on 127.0.0.1 cannot be used" in one_line(result.stderr)
    assert f"with {option} or" in one_line(result.stderr)
    assert run_file.read(tmp_path / "state") is None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:hunter2@127.0.0.1:{port}/0", "redis://:***@127.0.0.1:{port}/0"),
        ("unix:///none/redis.sock", "unix:///none/redis.sock"),
    ],
)
def test_a_redis_that_does_not_answer_is_named_without_its_password(
    tmp_path: Path, free_port: int, url: str, shown: str
) -> None:
    # A process of its own: starting a platform adopts orphans and ends every descendant.
    arguments = [
        "--state-dir",
        str(tmp_path),
        "--port",
        str(free_port),
    ]
    result = subprocess.run(
        [sys.executable, "-m", "aloraserve_services.cli.main", "up", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"COLUMNS": "1000", "ALORASERVE_REDIS_URL": url.format(port=free_port)},
    )
    assert result.returncode == EXIT_START, result.stderr
    assert f"error: no Redis answers at {shown.format(port=free_port)}: " in result.stderr
    assert "redis_url" in result.stderr
    assert "hunter2" not in result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_second_platform_in_the_folder_does_not_start(run: Run, tmp_path: Path) -> None:
    parent = psutil.Process(os.getppid())
    (tmp_path / "state").mkdir()
    run_file._write(
        tmp_path / "state",
        run_file.Running(parent.pid, parent.create_time(), "http://127.0.0.1:1", ready=True),
    )
    for more in ([], ["--detach"]):
        result = run("up", *more)
        assert result.exit_code == EXIT_START
        assert f"a platform runs already (pid {parent.pid}" in one_line(result.stderr)


def test_status_without_a_platform_says_how_to_start_one(run: Run) -> None:
    result = run("status")
    assert result.exit_code == EXIT_START
    assert "no platform runs in" in one_line(result.stderr)
    assert "aloraserve up" in one_line(result.stderr)


def test_status_of_an_address_where_nothing_answers_names_it(run: Run, free_port: int) -> None:
    result = run("status", "--url", f"http://127.0.0.1:{free_port}")
    assert result.exit_code == EXIT_START
    assert f"nothing answers at http://127.0.0.1:{free_port}" in one_line(result.stderr)


def test_status_shows_what_the_platform_says(run: Run, platform_url: str, tmp_path: Path) -> None:
    file = tmp_path / "aloraserve.yaml"
    file.write_text(f"api_keys: {{acme: {KEY}}}")
    shown = run("status", "--url", platform_url + "/", "--config", str(file))
    assert shown.exit_code == 0, shown.stderr
    assert all(word in one_line(shown.stdout) for word in ("smollm2 in float32", "1,280", "25%", "untrained"))
    assert "refused: broken: [no] weights" in one_line(shown.stdout)
    printed = run("status", "--url", platform_url, "--config", str(file), "--json")
    assert json.loads(printed.stdout) == REPLICAS
    assert KEY not in shown.output + printed.output


@pytest.fixture
def acme(tmp_path: Path) -> str:
    file = tmp_path / "aloraserve.yaml"
    file.write_text(f"api_keys: {{acme: {KEY}}}")
    return str(file)


def test_status_shows_what_was_saved_in_the_last_hour(
    run: Run, platform_url: str, acme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Platform, "savings", SAVINGS)
    shown = one_line(run("status", "--url", platform_url, "--config", acme).stdout)
    assert (
        "saved in the last hour: 12.3 s of TTFT and 34,560 tokens of prefill in 1,200 calls, confidence 0.88" in shown
    )
    assert "[safety] (alora): -0.5 s of TTFT" in shown
    assert "cost 0.12" in shown
    printed = run("status", "--url", platform_url, "--config", acme, "--json")
    assert json.loads(printed.stdout) == REPLICAS | {"savings": SAVINGS}


def test_status_says_so_if_the_ledger_is_gone(
    run: Run, platform_url: str, acme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Platform, "savings", SAVINGS | {"ledger": "cannot be reached"})
    shown = run("status", "--url", platform_url, "--config", acme).stdout
    assert "saved in the last hour: unknown, the ledger cannot be reached" in one_line(shown)


def test_status_of_a_platform_that_knows_no_savings_has_no_line_of_them(run: Run, platform_url: str, acme: str) -> None:
    shown = run("status", "--url", platform_url, "--config", acme)
    assert shown.exit_code == 0
    assert "saved" not in shown.stdout


def test_status_that_is_refused_says_why(run: Run, platform_url: str) -> None:
    result = run("status", "--url", platform_url)
    assert result.exit_code == EXIT_START
    assert "answered 401" in one_line(result.stderr)
    assert "who are you" in one_line(result.stderr)


def test_down_without_a_platform_is_done(run: Run) -> None:
    result = run("down")
    assert result.exit_code == 0
    assert "no platform runs in" in one_line(result.stdout)


def test_down_ends_the_platform_and_no_other_process(run: Run, tmp_path: Path) -> None:
    children = [
        subprocess.Popen([sys.executable, "-c", "import signal; print(flush=True); signal.pause()"]) for _ in range(2)
    ]
    try:
        platform, bystander = (psutil.Process(child.pid) for child in children)
        state = tmp_path / "state"
        state.mkdir()
        run_file._write(state, run_file.Running(bystander.pid, bystander.create_time() - 60, "http://x"))
        assert "no platform runs in" in one_line(run("down").stdout)
        run_file._write(state, run_file.Running(platform.pid, platform.create_time(), "http://x"))
        assert one_line(run("down").stdout) == "stopped"
        assert not platform.is_running()
        assert bystander.is_running()
    finally:
        for child in children:
            child.kill()
            child.wait()


def test_the_version_is_that_of_the_package() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"aloraserve {aloraserve.__version__}\n")


def test_the_command_line_starts_without_libraries_that_take_long() -> None:
    heavy = ["fastapi", "grpc", "llguidance", "matplotlib", "numpy", "peft", "ray", "torch", "transformers", "vllm"]
    program = (
        "import sys\nfrom aloraserve_services.cli.main import app\n"
        f"try: app(['--help'])\nexcept SystemExit: print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_without_a_command_the_help_is_shown() -> None:
    result = CliRunner().invoke(app, [])
    assert all(command in result.output for command in ("demo", "up", "status", "down"))


@pytest.mark.parametrize("url", ["http://127.0.0.1", "redis://:hunter/2@127.0.0.1", "redis://127.0.0.1?nothing=1"])
def test_a_redis_url_that_cannot_be_read_is_a_wrong_setting_and_not_shown(
    tmp_path: Path, free_port: int, url: str
) -> None:
    result = subprocess.run(
        [
            *(sys.executable, "-m", "aloraserve_services.cli.main", "up"),
            *("--state-dir", str(tmp_path), "--port", str(free_port)),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"COLUMNS": "1000", "ALORASERVE_REDIS_URL": url},
    )
    assert result.returncode == EXIT_SETTINGS, result.stderr
    assert "environment: redis_url: the Redis URL" in result.stderr
    assert "hunter" not in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("url", ["http://[::1", "http://127.0.0.1:9", "nowhere"])
def test_the_status_of_nothing_is_one_line(tmp_path: Path, url: str) -> None:
    result = CliRunner().invoke(app, ["status", "--url", url, "--state-dir", str(tmp_path)])
    assert result.exit_code == EXIT_START
    assert "nothing answers" in result.output + result.stderr
