"""When a call is made again: how often, and after which pauses."""

from __future__ import annotations

import random
from dataclasses import dataclass

from aloraserve.client.errors import CallError


@dataclass(frozen=True, slots=True)
class Retries:
    """Pauses double from ``first_s`` on, up to half of each left out by chance; a longer one that is asked for counts.

    Args:
        attempts: of a call in all; 1 never retries.
        first_s: bound of the first pause.
        longest_s: bound of any. A call that the platform asks to wait longer for fails at once.
    """

    attempts: int = 3
    first_s: float = 0.5
    longest_s: float = 30.0

    def pause_s(self, attempt: int, error: CallError) -> float | None:
        """Return how long to wait before the next attempt, None if there is none.

        Args:
            attempt: that failed; the first is 1.
            error: that it failed with.
        """
        if attempt >= self.attempts or not error.is_retried:
            return None
        drawn = random.uniform(0.5, 1.0) * min(self.first_s * 2 ** (attempt - 1), self.longest_s)  # noqa: S311
        asked = error.retry_after_s or 0.0
        return None if asked > self.longest_s else max(drawn, asked)
