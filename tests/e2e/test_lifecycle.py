"""Starting, showing and stopping, as an operator does; and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.model import link_models

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
DEAD = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


def test_status_shows_replicas_holdings_and_adapters(platform: Any, command: Callable[..., Any]) -> None:
    platform.chat("safety", [{"role": "user", "content": "hello " * 60}])
    platform.settle()
    shown = command("status", "--state-dir", str(platform.state_dir))
    assert shown.returncode == 0, shown.stderr
    for part in ("engine-0", "engine-1", "safety", "alora", "untrained", "tokens", "refused: broken"):
        assert part in shown.stdout
    content = json.loads(command("status", "--json", "--state-dir", str(platform.state_dir)).stdout)
    assert sum(one["held_blocks"] for one in content["replicas"]) > 0
    assert all("safety" in one["resident"] for one in content["replicas"])


def test_a_second_platform_in_the_same_folder_is_refused(platform: Any, command: Callable[..., Any]) -> None:
    again = command("up", "--detach", "--state-dir", str(platform.state_dir), "--port", "1")
    assert again.returncode == 3
    assert "runs already" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "moment", "number"),
    [
        (("up",), "Ray started", signal.SIGTERM),
        (("demo",), "engine replicas with", signal.SIGINT),
    ],
)
def test_a_signal_while_starting_leaves_nothing_behind(
    arguments: tuple[str, ...], moment: str, number: signal.Signals, model_path: Path, tmp_path: Path
) -> None:
    link_models(model_path.parents[1], tmp_path)
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "aloraserve_services.cli.main",
            *arguments,
            "--state-dir",
            str(tmp_path),
            "--port",
            str(_free_port()),
            "--dtype",
            "float32",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert process.stdout is not None
    seen: set[psutil.Process] = set()
    for line in process.stdout:
        if moment in line:
            break
    else:
        pytest.fail(f"it ended before saying {moment!r}")
    for _ in range(30):
        seen |= set(psutil.Process(process.pid).children(recursive=True))
        threading.Event().wait(0.1)
    assert len(seen) > 3, "Redis and Ray's processes were running"
    process.send_signal(number)
    rest = process.stdout.read()
    process.stdout.close()
    assert process.wait(60) == 130, rest
    assert "Traceback" not in rest
    assert "stopped" in rest
    left = [one for one in seen if one.is_running() and one.status() not in DEAD]
    assert left == []
    assert not (tmp_path / "run.json").exists()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
