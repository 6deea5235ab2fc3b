"""Problems of a spec and its data, each with its file and line; all of them come in one report."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from aloraserve.adapters.problems import sentence
from aloraserve.errors import TrainingError

MAX_LISTED = 20
"""Problems that a report lists; the others are counted."""


class TrainingProblem(NamedTuple):
    """One thing that is wrong.

    Args:
        file: as the user named it.
        line: of the file, from 1; 0 if it is about the whole file.
        found: the end of a sentence about the line: "has no completion".
        accepted: what is accepted instead; empty if ``found`` says it.
    """

    file: str
    line: int
    found: str
    accepted: str = ""

    @property
    def text(self) -> str:
        """The problem as a sentence."""
        where = f"{self.file}:{self.line}" if self.line else self.file
        return sentence(where, self.found, self.accepted)


class ProblemList:
    """Collects problems; keeps the first :data:`MAX_LISTED` and counts the rest."""

    def __init__(self) -> None:
        self.listed: list[TrainingProblem] = []
        self.count = 0

    def add(self, file: str, line: int, found: str, accepted: str = "") -> None:
        """Note one."""
        self.extend([TrainingProblem(file, line, found, accepted)])

    def extend(self, problems: Iterable[TrainingProblem]) -> None:
        """Note several."""
        for problem in problems:
            self.count += 1
            if len(self.listed) < MAX_LISTED:
                self.listed.append(problem)

    @property
    def text(self) -> str:
        """All that are kept, one per line, file by file, and how many more there are."""
        files = list(dict.fromkeys(problem.file for problem in self.listed))
        ordered = sorted(self.listed, key=lambda problem: (files.index(problem.file), problem.line))
        lines = [problem.text for problem in ordered]
        more = self.count - len(lines)
        return "\n".join([*lines, f"and {more} more problems"] if more else lines)

    def raise_any(self) -> None:
        """Do nothing if there are none.

        Raises:
            TrainingError: there are; has all of them.
        """
        if self.count:
            raise TrainingError(self.text)
