"""Steps that each take a little longer than the one before: an arithmetic series."""

from __future__ import annotations

import math
from typing import NamedTuple


class StepSeries(NamedTuple):
    """A series of steps, one after the other.

    Which steps have begun or ended at a time is read off :meth:`end_s`, to the last bit: a step has ended exactly from
    the time on that :meth:`end_s` returns.

    Args:
        started_s: when the first step begins.
        first_s: how long it takes, above 0.
        growth_s: how much longer each step takes than the one before.
    """

    started_s: float
    first_s: float
    growth_s: float

    def end_s(self, steps: int) -> float:
        """Return when so many steps have ended."""
        return self.started_s + (steps * self.first_s + self.growth_s * steps * (steps - 1) / 2)

    def begun(self, now_s: float) -> int:
        """Return how many steps have begun, at least one; at the end of a step the next has not."""
        ended = self.ended(now_s)
        return max(ended if self.end_s(ended) == now_s else ended + 1, 1)

    def ended(self, now_s: float) -> int:
        """Return how many steps have ended; ``now_s`` is not before the start."""
        steps = self._estimate(now_s - self.started_s)
        while self.end_s(steps + 1) <= now_s:
            steps += 1
        while steps and self.end_s(steps) > now_s:
            steps -= 1
        return steps

    def _estimate(self, elapsed_s: float) -> int:
        """Return how many steps fit into a time; rounding may make it wrong by one."""
        linear = self.first_s - self.growth_s / 2
        # Written so that it does not lose its digits when the growth is tiny.
        return int(2 * elapsed_s / (linear + math.sqrt(linear * linear + 2 * self.growth_s * elapsed_s)))
