"""Every process that the platform starts ends with it, however deep Ray and vLLM start them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType

import psutil

_PR_SET_CHILD_SUBREAPER = 36
KILL_AFTER_S = 3.0
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies, so that :func:`end_descendants` finds them.

    Only Linux can; elsewhere the descendants that are still in the tree are found.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_orphans() -> None:
    """Take the exit status of adopted processes that have ended, so that they do not stay in the process table."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess, ChildProcessError):
            if child.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(child.pid, os.WNOHANG)


def end_descendants(timeout_s: float = 15.0) -> int:
    """Terminate, and after ``KILL_AFTER_S`` kill, every descendant; return how many there were."""
    deadline, kill_at = time.monotonic() + timeout_s, time.monotonic() + KILL_AFTER_S
    met: set[int] = set()
    while time.monotonic() < deadline:
        # A zombie needs its status read, which wait_procs does.
        left = psutil.Process().children(recursive=True)
        if not left:
            break
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                if time.monotonic() > kill_at:
                    process.kill()
                elif process.pid not in met:
                    process.terminate()
            met.add(process.pid)
        psutil.wait_procs(left, timeout=0.2)
    return len(met)


@contextlib.contextmanager
def stop_signals() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into KeyboardInterrupt, as SIGINT is, for the time of the context.

    A hang-up that was ignored when the command started stays ignored: that is what ``nohup`` asks for. The others are
    heard all the same: a shell has its background jobs ignore SIGINT, and whoever sends it wants the command to end.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    deaf = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else set()
    before = {number: signal.signal(number, interrupt) for number in STOP_SIGNALS if number not in deaf}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def signals_ignored() -> Iterator[None]:
    """Let a clean-up finish: a second Ctrl-C would leave half of the processes behind."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
