"""What a replica's cache saved lately, as it would publish it."""

from __future__ import annotations

import math
from dataclasses import dataclass

MEMORY_S = 120.0
"""So long ago what was saved counts 1/e."""


@dataclass(slots=True)
class RecentSavings:
    """Seconds of prefill saved per second.

    Args:
        total_s: all of them.
        elsewhere_s: those on prefixes that another replica had, too.
        at_s: when that was so.
    """

    total_s: float = 0.0
    elsewhere_s: float = 0.0
    at_s: float = 0.0

    def add(self, time_s: float, total_s: float, elsewhere_s: float) -> None:
        """Take in what a call saved, or nothing, so that the rates are those of now."""
        keep = math.exp((self.at_s - time_s) / MEMORY_S)
        self.total_s = keep * self.total_s + total_s / MEMORY_S
        self.elsewhere_s = keep * self.elsewhere_s + elsewhere_s / MEMORY_S
        self.at_s = time_s
