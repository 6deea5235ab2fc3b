"""No engine process outlives its replica: real processes, killed as Ray kills them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from aloraserve_services.engine.parent_watch import PARENT_VARIABLE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pidfd is Linux's")

DEADLINE_S = 10.0
ENGINE = """
from aloraserve_services.engine.parent_watch import watch_parent
watch_parent()
"""
WAIT = """
import signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(*pids, flush=True)
signal.pause()
"""
WORKER = ENGINE + "import os; pids = [os.getpid()]" + WAIT
CORE = f"""
{ENGINE}
import os, subprocess, sys
worker = subprocess.Popen([sys.executable, "-c", {WORKER!r}], stdout=subprocess.PIPE, text=True)
pids = [os.getpid(), *worker.stdout.readline().split()]
{WAIT}
"""
REPLICA = f"""
import os, subprocess, sys
os.environ[{PARENT_VARIABLE!r}] = str(os.getpid())
{ENGINE}
core = subprocess.Popen(
    [sys.executable, "-c", {CORE!r}], stdout=subprocess.PIPE, text=True, start_new_session=True
)
pids = core.stdout.readline().split()
{WAIT}
"""
Start = Callable[[str], tuple[subprocess.Popen[str], list[psutil.Process]]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a script; return it and the processes whose ids it prints. All of them are gone at the end."""
    started: list[subprocess.Popen[str]] = []
    named: list[psutil.Process] = []

    def run(script: str) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        found = [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]
        named.extend(found)
        return process, found

    yield run
    for process in named:
        if process.is_running():
            process.kill()
    for process in started:
        process.kill()
        process.communicate()


def ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def end_in_time(processes: list[psutil.Process]) -> bool:
    deadline = time.monotonic() + DEADLINE_S
    while not all(ended(process) for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def run_engine(parent: str | None, then: str) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if name != PARENT_VARIABLE}
    if parent is not None:
        variables[PARENT_VARIABLE] = parent
    return subprocess.run(
        [sys.executable, "-c", ENGINE + then],
        env=variables,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )


def test_the_whole_engine_dies_with_a_replica_that_was_killed(start: Start) -> None:
    replica, engine = start(REPLICA)
    assert len(engine) == 2
    assert not any(ended(process) for process in engine)
    replica.kill()
    assert end_in_time(engine)


def test_a_worker_outlives_its_core_while_the_replica_lives(start: Start) -> None:
    replica, (core, worker) = start(REPLICA)
    core.kill()
    assert end_in_time([core])
    assert not ended(worker)
    assert replica.poll() is None
    replica.kill()
    assert end_in_time([worker])


def test_an_engine_whose_replica_is_gone_already_does_not_start() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    result = run_engine(str(gone.pid), "print('started')")
    assert (result.returncode, result.stdout) == (-9, "")


@pytest.mark.parametrize("parent", [None, "", "x", "-1", "1.5", " 7"])
def test_outside_the_platform_nothing_is_watched(parent: str | None) -> None:
    result = run_engine(parent, "import threading; print(threading.active_count())")
    assert (result.returncode, result.stdout) == (0, "1\n"), result.stderr


def test_the_replica_does_not_watch_itself() -> None:
    itself = f"import os, threading; os.environ[{PARENT_VARIABLE!r}] = str(os.getpid()); watch_parent()"
    assert run_engine(None, f"{itself}; print(threading.active_count())").stdout == "1\n"


def test_plugins_that_are_loaded_twice_watch_once() -> None:
    count = "watch_parent(); import threading; print(threading.active_count())"
    assert run_engine(str(os.getpid()), count).stdout == "2\n"


def test_a_watcher_does_not_keep_its_process_alive() -> None:
    assert run_engine(str(os.getpid()), "").returncode == 0
