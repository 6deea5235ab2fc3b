"""Processes of a platform that outlived it: those whose working folder is a private one that nobody owns any more.

Ray's agents have neither a parent that is left nor an environment to be read: they write a title over it. But each of
Ray's processes works in the folder that Ray was started in.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import psutil

END_WITHIN_S = 5.0
_TITLES = ("ray::", "ray-")
"""Beginnings of the titles of Ray's own processes."""


def end_processes_in(folder: Path) -> None:
    """Kill this user's processes that were started in a private folder; a shell that stands in it is left alone.

    Args:
        folder: whose owner has ended.
    """
    left = [process for process in psutil.process_iter() if process.pid != os.getpid() and _was_in(process, folder)]
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=END_WITHIN_S)


def _was_in(process: psutil.Process, folder: Path) -> bool:
    try:
        if process.uids().real != os.getuid() or not Path(process.cwd()).is_relative_to(folder):
            return False
        words = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return str(folder) in words or words.startswith(_TITLES)
