"""Figures that are added up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

OTHER = "(other)"
"""The name under which names beyond a bucket's limit are summed."""
Bucket = tuple[int, int]
"""Width in seconds, number since 1970."""


@dataclass(slots=True)
class Figures:
    """Base of sums: its fields are whole numbers that begin at 0, so that adding up is exact in any order."""

    def add(self, other: Self) -> None:
        """Add another sum to this one."""
        for name in self.names():
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the fields' names."""
        return tuple(cls.__dataclass_fields__)
