"""Processes end with the platform: real ones, in a process of their own because it adopts orphans."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from aloraserve_services.local.processes import KILL_AFTER_S, signals_ignored, stop_signals

STOPS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
SLEEP = "import signal; print(flush=True); signal.pause()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + SLEEP
ORPHAN = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {SLEEP!r}], stdout=subprocess.PIPE, start_new_session=True)
child.stdout.readline()
print(child.pid, flush=True)
"""
PLATFORM = """
import json, os, signal, subprocess, sys, time, psutil
from aloraserve_services.local import processes

def start(script, **options):
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, **options)
    return child, child.stdout.readline().strip()

def alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE

def end(*pids, **options):
    started = time.monotonic()
    try:
        met = processes.end_descendants(**options)
    finally:
        seconds = time.monotonic() - started
        left = [pid for pid in pids if alive(pid)]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
    print(json.dumps({"met": met, "left": len(left), "seconds": seconds}))
"""


@pytest.fixture(autouse=True)
def _heard_hang_ups() -> Iterator[None]:
    """The tests may run under nohup themselves."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def run(script: str) -> dict[str, Any]:
    """Run a platform's script and return what its ``end`` found; nothing is left even if that failed."""
    result = subprocess.run([sys.executable, "-c", PLATFORM + script], capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_children_that_listen_end_before_any_is_killed() -> None:
    found = run(f"end(*[start({SLEEP!r})[0].pid for _ in range(3)])")
    assert (found["met"], found["left"]) == (3, 0)
    assert found["seconds"] < KILL_AFTER_S


def test_a_child_that_ignores_sigterm_is_killed() -> None:
    found = run(f"processes.KILL_AFTER_S = 0.3; end(start({STUBBORN!r})[0].pid)")
    assert (found["met"], found["left"]) == (1, 0)
    assert found["seconds"] >= 0.3


def test_a_child_that_is_stopped_is_killed() -> None:
    stopped = f"child, _ = start({SLEEP!r}); psutil.Process(child.pid).suspend();"
    assert run(f"processes.KILL_AFTER_S = 0.3; {stopped} end(child.pid)")["left"] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process adopt orphans")
def test_an_orphan_in_a_session_of_its_own_is_found_after_adoption() -> None:
    script = f"processes.adopt_orphans(); child, pid = start({ORPHAN!r}); child.wait(); end(int(pid))"
    found = run(script)
    assert (found["met"], found["left"]) == (1, 0)


@pytest.mark.parametrize("before", ["", "processes.adopt_orphans();"])
def test_a_grandchild_ends_with_its_parent(before: str) -> None:
    parent = ORPHAN + "import signal; signal.pause()"
    found = run(f"{before}child, pid = start({parent!r}); end(child.pid, int(pid))")
    assert (found["met"], found["left"]) == (2, 0)


def test_the_wait_for_what_does_not_end_is_bounded() -> None:
    script = f"processes.KILL_AFTER_S = 60; end(start({STUBBORN!r})[0].pid, timeout_s=0.5)"
    found = run(script)
    assert (found["met"], found["left"]) == (1, 1)
    assert found["seconds"] < 3


def test_without_descendants_there_is_nothing_to_wait_for() -> None:
    found = run("end()")
    assert found["met"] == 0
    assert found["seconds"] < KILL_AFTER_S


def interrupted_by(number: signal.Signals) -> None:
    """Send this process a signal and wait for what it does."""
    signal.raise_signal(number)
    time.sleep(5)


@pytest.mark.parametrize("number", STOPS)
def test_every_stop_signal_interrupts_as_ctrl_c_does(number: signal.Signals) -> None:
    before = [signal.getsignal(one) for one in STOPS]
    with pytest.raises(KeyboardInterrupt), stop_signals():
        interrupted_by(number)
    assert [signal.getsignal(one) for one in STOPS] == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_is_heard_also_by_a_background_job(number: signal.Signals) -> None:
    """A shell has background jobs ignore SIGINT."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt), stop_signals():
            signal.raise_signal(number)
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_a_hang_up_stays_ignored_under_nohup() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_stop_signals_during_a_clean_up_are_ignored_and_then_are_not() -> None:
    with stop_signals():
        with signals_ignored():
            for number in STOPS:
                signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt):
            interrupted_by(signal.SIGTERM)


def test_a_clean_up_that_fails_leaves_the_handlers_as_they_were() -> None:
    before = [signal.getsignal(one) for one in STOPS]
    with pytest.raises(OSError, match="disk"), signals_ignored():
        raise OSError("disk")
    assert [signal.getsignal(one) for one in STOPS] == before


def test_an_adopted_orphan_that_ended_is_not_left_a_zombie() -> None:
    script = """
import subprocess, sys, time, psutil
from aloraserve_services.local.processes import adopt_orphans, reap_orphans
adopt_orphans()
middle = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', '']).pid, flush=True)"
pid = int(subprocess.run([sys.executable, "-c", middle], capture_output=True, text=True).stdout)
deadline = time.monotonic() + 10
while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
    assert time.monotonic() < deadline
    time.sleep(0.02)
assert psutil.pid_exists(pid)
reap_orphans()
assert not psutil.pid_exists(pid)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
