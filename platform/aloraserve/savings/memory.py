"""A ledger in this process alone."""

from __future__ import annotations

from aloraserve.ledger.tally import Tally
from aloraserve.savings.base import (
    LONGEST_FINE_S,
    LONGEST_WINDOW_S,
    MAX_ADAPTERS,
    MINUTE_S,
    QUARTER_S,
    SavingsEntry,
    SavingsFigures,
    buckets,
)

KEPT_S = {MINUTE_S: LONGEST_FINE_S, QUARTER_S: LONGEST_WINDOW_S}
"""How long a bucket of each width is of use."""


class MemoryLedger:
    """See :class:`~aloraserve.savings.base.SavingsLedger`."""

    def __init__(self) -> None:
        self._tally = Tally(SavingsFigures, KEPT_S, MAX_ADAPTERS)

    def add(self, entry: SavingsEntry, at_s: float) -> None:
        self._tally.add(entry.adapter, SavingsFigures.of(entry), at_s)
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
