"""Progress of a training: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeftColumn

from aloraserve_services.cli.console import out

_LINE_EVERY_S = 10.0


class TrainingBars:
    """Shows what a training reports."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeElapsedColumn(),
            TimeLeftColumn(),
            console=out,
            disable=not out.is_terminal,
        )
        self._phases: dict[str, _Phase] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def note(self, text: str) -> None:
        """Print a sentence, with the seconds since the start."""
        self._bars.console.print(
            f"{time.monotonic() - self._started:6.1f} s  {text}", markup=False, soft_wrap=True, highlight=False
        )

    def advance(self, phase: str, done: int, total: int, loss: float | None = None) -> None:
        """Move a phase's bar; without a terminal print a line now and then, with the time left."""
        shown = "" if loss is None else f"loss {loss:.4f}"
        if phase not in self._phases:
            self._phases[phase] = _Phase(self._bars.add_task(phase, total=total, loss=shown), done)
        known = self._phases[phase]
        self._bars.update(known.task, completed=done, loss=shown)
        if not out.is_terminal and known.is_due(last=done == total):
            left = known.seconds_left(done, total)
            self.note(f"{phase} {done} of {total}{', ' * bool(shown)}{shown}, about {left:.0f} s left")


class _Phase:
    """What was shown of one.

    Args:
        task: its bar.
        begun_at: units that were done when it was first reported.
    """

    def __init__(self, task: TaskID, begun_at: int) -> None:
        self.task = task
        self._begun_at = begun_at
        self._began = self._shown = time.monotonic()

    def is_due(self, *, last: bool) -> bool:
        """Say whether a line is due."""
        now = time.monotonic()
        if last or now - self._shown >= _LINE_EVERY_S:
            self._shown = now
            return True
        return False

    def seconds_left(self, done: int, total: int) -> float:
        """Return how long the rest takes at the pace so far."""
        return (time.monotonic() - self._began) / max(done - self._begun_at, 1) * (total - done)
