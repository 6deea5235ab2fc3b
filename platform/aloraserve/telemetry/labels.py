"""Label values that stay few, whatever the fleet serves."""

from __future__ import annotations

MAX_ADAPTER_LABELS = 100
"""A histogram is 16 series a label: 100 adapters of three kinds of them are some thousands, which Prometheus bears."""
OTHER = "other"


class BoundedNames:
    """The first names to come are labels of their own; all later ones share :data:`OTHER`.

    A name keeps its label as long as the process lives, so that its counters never jump. Only served names may be
    asked about: otherwise clients could use the places up.

    Args:
        limit: how many names have a label of their own.
    """

    def __init__(self, limit: int = MAX_ADAPTER_LABELS) -> None:
        self._limit = limit
        self._names: set[str] = set()

    def label(self, name: str | None) -> str:
        """Return the label of a name, empty for None."""
        if name is None or name in self._names:
            return name or ""
        if len(self._names) >= self._limit:
            return OTHER
        self._names.add(name)
        return name
