"""Steps that each take a little longer than the one before: an arithmetic series."""

from __future__ import annotations

import math

_ROUNDING = 1e-9


def series_s(first_s: float, growth_s: float, steps: int) -> float:
    """Return how long ``steps`` steps take.

    Args:
        first_s: the first one, above 0.
        growth_s: what each takes longer than the one before.
        steps: how many.
    """
    return steps * first_s + growth_s * steps * (steps - 1) / 2


def steps_begun(first_s: float, growth_s: float, elapsed_s: float) -> int:
    """Return how many steps have begun after ``elapsed_s``, at least one: the fewest that take as long or longer.

    The arguments are those of :func:`series_s`, solved for the steps.
    """
    exact = _steps(first_s, growth_s, elapsed_s)
    return max(math.ceil(exact - _ROUNDING * max(exact, 1.0)), 1)


def steps_ended(first_s: float, growth_s: float, elapsed_s: float) -> int:
    """Return how many steps have ended after ``elapsed_s``; see :func:`steps_begun`."""
    exact = _steps(first_s, growth_s, elapsed_s)
    return math.floor(exact + _ROUNDING * max(exact, 1.0))


def _steps(first_s: float, growth_s: float, elapsed_s: float) -> float:
    linear = first_s - growth_s / 2
    # Written so that it does not lose its digits when the growth is tiny.
    return 2 * elapsed_s / (linear + math.sqrt(linear * linear + 2 * growth_s * elapsed_s))
