"""A ledger in this process alone."""

from __future__ import annotations

from aloraserve.savings.base import (
    LONGEST_FINE_S,
    LONGEST_WINDOW_S,
    MAX_ADAPTERS,
    MINUTE_S,
    OTHER,
    QUARTER_S,
    SavingsEntry,
    SavingsFigures,
    buckets,
)

KEPT_S = {MINUTE_S: LONGEST_FINE_S, QUARTER_S: LONGEST_WINDOW_S}
"""How long a bucket of each width is of use."""
Bucket = tuple[int, int]
"""Width in seconds, number since 1970."""


class Tally:
    """Figures by bucket and adapter, without a clock: what both ledgers add up in."""

    def __init__(self) -> None:
        self.by_bucket: dict[Bucket, dict[str, SavingsFigures]] = {}
        self._names: dict[Bucket, set[str]] = {}

    def add(self, entry: SavingsEntry, at_s: float) -> None:
        """Count a call in the bucket of each width that it falls into."""
        figures = SavingsFigures.of(entry)
        for width in KEPT_S:
            bucket = (width, int(at_s // width))
            names = self._names.setdefault(bucket, set())
            if len(names) < MAX_ADAPTERS:
                names.add(entry.adapter)
            name = entry.adapter if entry.adapter in names else OTHER
            self.by_bucket.setdefault(bucket, {}).setdefault(name, SavingsFigures()).add(figures)

    def take(self) -> dict[Bucket, dict[str, SavingsFigures]]:
        """Return the figures and start over; the names of each bucket are remembered, so that they stay bounded."""
        taken, self.by_bucket = self.by_bucket, {}
        return taken

    def forget(self, now_s: float) -> None:
        """Drop the buckets that no window that ends now or later reaches."""
        for width, number in [*self._names]:
            if (number + 1) * width <= now_s - KEPT_S[width]:
                del self._names[width, number]
                self.by_bucket.pop((width, number), None)


class MemoryLedger:
    """See :class:`~aloraserve.savings.base.SavingsLedger`."""

    def __init__(self) -> None:
        self._tally = Tally()

    def add(self, entry: SavingsEntry, at_s: float) -> None:
        self._tally.add(entry, at_s)
        self._tally.forget(at_s)

    async def flush(self) -> None:
        pass

    async def totals(self, window_s: float, now_s: float) -> dict[str, SavingsFigures]:
        width, numbers = buckets(window_s, now_s)
        found: dict[str, SavingsFigures] = {}
        for number in numbers:
            for adapter, figures in self._tally.by_bucket.get((width, number), {}).items():
                found.setdefault(adapter, SavingsFigures()).add(figures)
        return found

    async def close(self) -> None:
        pass
