"""Figures by bucket and name in this process, without a clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

from aloraserve.ledger.figures import OTHER, Bucket, Figures

AnyFigures = TypeVar("AnyFigures", bound=Figures)


class Tally(Generic[AnyFigures]):
    """See the module's docstring.

    Args:
        kind: of figures.
        kept_s: width of a bucket -> how long it is of use, both in seconds.
        max_names: that are kept apart in a bucket; those beyond are summed under :data:`OTHER`.
    """

    def __init__(self, kind: type[AnyFigures], kept_s: Mapping[int, int], max_names: int) -> None:
        self.by_bucket: dict[Bucket, dict[str, AnyFigures]] = {}
        self._kind = kind
        self._kept_s = kept_s
        self._max_names = max_names
        self._names: dict[Bucket, set[str]] = {}

    def add(self, name: str, figures: AnyFigures, at_s: float) -> None:
        """Count figures in the bucket of each width that they fall into."""
        for width in self._kept_s:
            bucket = (width, int(at_s // width))
            names = self._names.setdefault(bucket, set())
            if len(names) < self._max_names:
                names.add(name)
            shown = name if name in names else OTHER
            self.by_bucket.setdefault(bucket, {}).setdefault(shown, self._kind()).add(figures)

    def take(self) -> dict[Bucket, dict[str, AnyFigures]]:
        """Return the figures and start over; the names of each bucket are remembered, so that they stay bounded."""
        taken, self.by_bucket = self.by_bucket, {}
        return taken

    def forget(self, now_s: float) -> None:
        """Drop the buckets that no window that ends now or later reaches."""
        for width, number in [*self._names]:
            if (number + 1) * width <= now_s - self._kept_s[width]:
                del self._names[width, number]
                self.by_bucket.pop((width, number), None)
