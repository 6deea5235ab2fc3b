"""No engine process outlives its replica.

vLLM starts its engine core and workers as processes of their own. When Ray kills a replica with SIGKILL nothing warns
them; they would keep their memory and their cores. So each of them watches the replica's process and ends with it.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time

import psutil

PARENT_VARIABLE = "ALORASERVE_ENGINE_PARENT_PID"
POLL_S = 0.5


def watch_parent() -> None:
    """Kill this process when the replica that it belongs to ends.

    vLLM calls this in each of its processes (``vllm.general_plugins``). It does nothing outside the platform and in
    the replica itself.
    """
    parent = os.environ.get(PARENT_VARIABLE, "")
    if not parent.isdecimal() or int(parent) == os.getpid() or _watching():
        return
    try:
        process = psutil.Process(int(parent))
    except psutil.NoSuchProcess:
        os.kill(os.getpid(), signal.SIGKILL)
        return
    threading.Thread(target=_die_with, args=(process,), name=_THREAD, daemon=True).start()


_THREAD = "aloraserve-parent"


def _watching() -> bool:
    return any(thread.name == _THREAD for thread in threading.enumerate())


def _die_with(process: psutil.Process) -> None:
    """Wait for the process to end, then end without a clean-up that could hang."""
    _wait_for_end(process)
    os.kill(os.getpid(), signal.SIGKILL)


def _wait_for_end(process: psutil.Process) -> None:
    try:
        descriptor = os.pidfd_open(process.pid)
    except (AttributeError, OSError):
        # No pidfd here (macOS, an old kernel, a sandbox): ask now and then.
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(POLL_S)
        return
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while not poll.poll():
        pass
