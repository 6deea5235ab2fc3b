"""A fleet on several raylets that grows under load and shrinks after it: a short run of ``benchmarks.autoscaling``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
REPLICAS = 3
FLEET = ("--replicas", str(REPLICAS), "--nodes", "2", "--objective-s", "2", "--cooldown-s", "3", "--settle-s", "3")
LOAD = ("--calm-s", "5", "--busy-s", "12", "--conversations", "30", "--after-s", "30")
LEAST_REUSED = 90
"""Per cent of what one conversation might reuse on the only replica: all but what a block does not fill."""

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("autoscaling") / "result.json"
    command = [sys.executable, "-m", "benchmarks.autoscaling", *FLEET, *LOAD, "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=280)
    assert file.exists(), done.stdout[-2000:] + done.stderr[-3000:]
    found: dict[str, Any] = json.loads(file.read_text())
    return found | {"returncode": done.returncode}


def figures(run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {figure["name"]: figure for figure in run["figures"]}


def test_a_fleet_grows_under_load_and_shrinks_after_it_and_no_call_notices(run: dict[str, Any]) -> None:
    assert run["failures"] == []
    running = [sample["running"] for sample in run["samples"]]
    assert max(running) == REPLICAS, running
    # Down to one takes until the burst is no part of the scaler's longest window any more.
    assert running[0] == 1
    assert running[-1] < REPLICAS, running


def test_the_benchmark_says_by_its_exit_code_whether_its_figures_are_met(run: dict[str, Any]) -> None:
    """Those are asserted that hold on a slow machine: what is reused after a change is for the full run, and so is the
    way down to one replica."""
    found = figures(run)
    assert run["returncode"] == int(any(figure["met"] is False for figure in found.values())), found
    assert found["calls answered"]["value"] > 0
    assert found["failed or cut"]["met"]
    assert found["most replicas"]["value"] == REPLICAS
    assert found["reused of what might be, one replica"]["value"] >= LEAST_REUSED


def test_every_change_is_explained_and_who_left_was_chosen(run: dict[str, Any]) -> None:
    scaling = run["scaling"]
    assert (scaling["autoscaling"], scaling["board"]) == (True, "ok")
    targets = [change["target"] for change in reversed(scaling["changes"])]
    assert max(targets) == REPLICAS
    stopped = [victim["label"] for change in scaling["changes"] for victim in change["victims"]]
    assert stopped
    assert all(change["source"] == "directory" for change in scaling["changes"])
    assert all(change["victims_chosen_by"] == "worth" for change in scaling["changes"])
    assert scaling["latest"]["target"] == targets[-1]


def test_replicas_that_came_took_their_part(run: dict[str, Any]) -> None:
    # An answer whose headers went out before a replica was chosen names none.
    assert len(run["answered"].keys() - {""}) >= 2, run["answered"]
