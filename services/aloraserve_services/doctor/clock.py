"""Is this machine's clock kept in time?"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator

from aloraserve_services.doctor.base import Finding, ok, skipped, warning

TIME_ERROR = 5
"""What ``adjtimex`` returns while nothing keeps the clock in time (``man 2 adjtimex``)."""
_TIMEX_BYTES = 512
"""More than a ``struct timex`` has, whose first field says what to change: zeros only ask."""


def clock_state() -> int:
    """Return what the kernel says of its clock.

    Raises:
        OSError: it says nothing.
    """
    library = ctypes.CDLL(None, use_errno=True)
    state = int(library.adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)))
    if state < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return state


def look_at_clock(read: Callable[[], int] = clock_state) -> Iterator[Finding]:
    """Ask the kernel whether something keeps its clock in time."""
    if sys.platform != "linux":
        yield skipped("clock", "only Linux says whether it is kept in time")
    elif read() == TIME_ERROR:
        yield warning(
            "clock",
            "nothing keeps it in time, as the kernel knows",
            "run chrony or systemd-timesyncd, on the machine and not in the container",
        )
    else:
        yield ok("clock", "kept in time")
