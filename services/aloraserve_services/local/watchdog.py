"""Ends what a platform has started, if the platform itself is killed and cannot.

``kill -9``, the kernel for want of memory: nothing in the platform's process runs any more, and what it started would
stay. So a small process waits for its end. It knows the platform's processes by a mark in their environment.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil

from aloraserve_services.local.private_folder import remove_leftovers

MARK = "_ALORASERVE_SESSION"
"""Variable that every process of a platform has; not a setting."""
ENDED = b"ended"
END_WITHIN_S = 10.0
MESSAGE = (
    "aloraserve: the platform's process has ended without its clean-up; what it had started was ended, and its "
    "temporary files were removed"
)


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Have whatever is started in this context end with this process, however that ends."""
    mark = secrets.token_hex(8)
    watchdog = subprocess.Popen(  # noqa: S603
        [sys.executable, "-P", "-m", __name__, mark],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        # A signal to the terminal's processes is not meant for it.
        start_new_session=True,
    )
    os.environ[MARK] = mark
    try:
        yield
    finally:
        del os.environ[MARK]
        # It may have been ended already, with all that this process has started.
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            watchdog.communicate(ENDED, timeout=END_WITHIN_S)


def end_marked(mark: str) -> None:
    """Kill every process that has a mark, and those below it, until there is none.

    Ray's workers write a title over their environment; they are the children of a server that does not.
    """
    deadline = time.monotonic() + END_WITHIN_S
    while (left := _marked(mark)) and time.monotonic() < deadline:
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=0.2)


def _marked(mark: str) -> set[psutil.Process]:
    marked = {process for process in psutil.process_iter() if process.pid != os.getpid() and _has(process, mark)}
    return marked.union(*map(_below, marked))


def _below(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []


def _has(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _watch(mark: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # Ends when the platform says so, or else when its end of the pipe is closed, by whatever closed it.
    if sys.stdin.buffer.read() != ENDED:
        end_marked(mark)
        remove_leftovers()
        with contextlib.suppress(OSError):
            print(MESSAGE, file=sys.stderr)


if __name__ == "__main__":
    _watch(sys.argv[1])
