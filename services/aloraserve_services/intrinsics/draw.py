"""Random choices that are the same in every version of Python: ``random()`` alone is documented to be."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Draw:
    """A seeded source of choices.

    Args:
        seed: equal seeds give equal choices.
    """

    def __init__(self, *seed: str | int) -> None:
        # A text is hashed by SHA-512, in this form since Python 3.2.
        self._random = random.Random("/".join(map(str, seed)))  # noqa: S311

    def number(self, low: int, high: int) -> int:
        """Return a whole number from ``low`` to ``high``, both included."""
        return low + int(self._random.random() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        """Return true with that probability."""
        return self._random.random() < probability

    def pick(self, options: Sequence[T]) -> T:
        """Return one of the options."""
        return options[self.number(0, len(options) - 1)]

    def some(self, options: Sequence[T], count: int) -> list[T]:
        """Return so many different options, in random order; all of them if there are not more."""
        left = list(options)
        return [left.pop(self.number(0, len(left) - 1)) for _ in range(min(count, len(left)))]

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """Return the options in random order."""
        return self.some(options, len(options))
