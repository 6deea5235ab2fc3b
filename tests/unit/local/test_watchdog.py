"""What a platform has started ends with it, also if it is killed and can do nothing any more."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from aloraserve_services.local.watchdog import END_WITHIN_S, MESSAGE

PLATFORM = """
import subprocess, sys
import psutil
from aloraserve_services.local.private_folder import private_folder
from aloraserve_services.local.redis_server import embedded_redis
from aloraserve_services.local.watchdog import watched

SLEEP = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"
START = "subprocess.Popen([sys.executable, '-c', sys.argv[1]], start_new_session=True, env={}).wait()"
DEEP = "import subprocess, sys; " + START
with watched(), private_folder("test") as folder, embedded_redis():
    children = [
        subprocess.Popen([sys.executable, "-c", *script], stdout=subprocess.PIPE, start_new_session=True)
        for script in ((SLEEP,), (DEEP, SLEEP))
    ]
    for child in children:
        child.stdout.readline()
    print(folder, flush=True)
    sys.stdin.readline()
    for child in children:
        for deep in psutil.Process(child.pid).children(recursive=True):
            deep.kill()
        child.kill()
print("ended", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def platform() -> Iterator[subprocess.Popen[str]]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", PLATFORM], text=True, **pipes)  # type: ignore[call-overload]
    yield process
    process.kill()
    process.communicate(timeout=30)


def test_nothing_outlives_a_platform_that_is_killed(platform: subprocess.Popen[str]) -> None:
    folder = Path(platform.stdout.readline().strip())  # type: ignore[union-attr]
    started = psutil.Process(platform.pid).children(recursive=True)
    assert len(started) == 5, "the watchdog, the embedded Redis, two children, and a child's child without the mark"
    platform.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(started, timeout=END_WITHIN_S + 5)
    assert alive == []
    assert not folder.exists()
    assert platform.stderr is not None
    assert platform.stderr.read().strip() == MESSAGE


def test_a_platform_that_ends_by_itself_takes_its_watchdog_along(platform: subprocess.Popen[str]) -> None:
    assert platform.stdout is not None
    assert platform.stdin is not None
    platform.stdout.readline()
    [watchdog] = [
        child
        for child in psutil.Process(platform.pid).children()
        if any("watchdog" in word for word in child.cmdline())
    ]
    platform.stdin.write("\n")
    platform.stdin.flush()
    assert platform.stdout.readline() == "ended\n"
    assert not watchdog.is_running()
    assert platform.communicate("\n", timeout=10)[1] == ""
