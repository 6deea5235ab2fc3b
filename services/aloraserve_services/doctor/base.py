"""A check of a deployment, what it finds, and how many are run within bounded time.

A check only looks. It may block; it is given up after its time and its finding says so. What it finds names no secret:
no key, no password, and of the environment only the names of variables.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from aloraserve.errors import AloraserveError


class Level(StrEnum):
    """How much something matters."""

    OK = "ok"
    SKIPPED = "skipped"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check says.

    Args:
        check: what was looked at.
        level: how much it matters.
        found: what is there.
        remedy: what to do; empty where there is nothing to do.
    """

    check: str
    level: Level
    found: str
    remedy: str = ""


Look = Callable[[], Iterable[Finding]]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at.

    Args:
        name: of its finding where it fails to look.
        look: returns what it finds; may raise.
    """

    name: str
    look: Look


def ok(check: str, found: str) -> Finding:
    """Return a finding that asks for nothing."""
    return Finding(check, Level.OK, found)


def skipped(check: str, why: str) -> Finding:
    """Return a finding of what was not looked at."""
    return Finding(check, Level.SKIPPED, why)


def warning(check: str, found: str, remedy: str) -> Finding:
    """Return a finding of what works and may hurt."""
    return Finding(check, Level.WARNING, found, remedy)


def failed(check: str, found: str, remedy: str) -> Finding:
    """Return a finding of what does not work."""
    return Finding(check, Level.FAILED, found, remedy)


def examine(checks: Sequence[Check], timeout_s: float) -> list[Finding]:
    """Run all checks beside each other; return what they find, in their order.

    Args:
        checks: to be run.
        timeout_s: that each has. One that takes longer is left behind, in a thread that ends with the process.
    """
    results: list[queue.SimpleQueue[list[Finding]]] = []
    for check in checks:
        result: queue.SimpleQueue[list[Finding]] = queue.SimpleQueue()
        threading.Thread(target=_run, args=(check, result), daemon=True).start()
        results.append(result)
    deadline = time.monotonic() + timeout_s
    found: list[Finding] = []
    for check, result in zip(checks, results, strict=True):
        try:
            found += result.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            found.append(
                failed(
                    check.name, f"no result after {timeout_s:g} s", "see whether what it looks at hangs, or --timeout"
                )
            )
    return found


def _run(check: Check, result: queue.SimpleQueue[list[Finding]]) -> None:
    try:
        result.put(list(check.look()))
    except (AloraserveError, OSError) as error:
        result.put([failed(check.name, str(error) or type(error).__name__, "see the message")])
    # A check that fails must not hide what the others found.
    except Exception as error:  # noqa: BLE001
        result.put([failed(check.name, f"the check itself failed: {type(error).__name__}", "report this as a bug")])
