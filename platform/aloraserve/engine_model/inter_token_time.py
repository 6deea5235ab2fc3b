"""How far apart the tokens of running answers came lately, steps with prompts included."""

from __future__ import annotations

import math

from aloraserve.engine_model.step_stats import StepStats

MEMORY_S = 2.0
"""Of computing: a step before which so much was computed counts 1/e of a new one."""


class InterTokenTime:
    """The mean gap between two tokens of an answer, over all answers, the last ones weighing most."""

    def __init__(self) -> None:
        self._gaps_s = 0.0
        self._gaps = 0.0

    def add(self, step: StepStats) -> None:
        """Take in a step, or several that followed each other."""
        passed_s = step.seconds * step.steps
        keep = math.exp(-passed_s / MEMORY_S)
        self._gaps_s = keep * self._gaps_s + passed_s * step.answers
        self._gaps = keep * self._gaps + step.steps * step.answers

    @property
    def seconds(self) -> float:
        """The mean, 0 before the first."""
        return self._gaps_s / self._gaps if self._gaps > 0 else 0.0
