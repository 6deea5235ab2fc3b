"""Reports of a training while it runs."""

from __future__ import annotations

from typing import Protocol


class TrainingProgress(Protocol):
    """Takes reports. Called from the training's thread alone."""

    def note(self, text: str) -> None:
        """Take a sentence about what happens."""

    def advance(self, phase: str, done: int, total: int, loss: float | None = None) -> None:
        """Take how far a phase is.

        Args:
            phase: its name, for people: ``prefixes``, ``steps``.
            done: of ``total``.
            total: units of the phase.
            loss: of the last steps, where there is one.
        """


class Silence:
    """Progress that nobody reads."""

    def note(self, text: str) -> None:
        """Do nothing."""

    def advance(self, phase: str, done: int, total: int, loss: float | None = None) -> None:
        """Do nothing."""
