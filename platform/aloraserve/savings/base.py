"""Savings of one call, and the contract of a ledger that adds them up.

The *counterfactual* of a call is the same call, on the same replica at the same moment, in an engine whose cache is
keyed by adapter from the first token on (every engine's cache of plain LoRAs). What such a cache would hold is the
:class:`~aloraserve.savings.ghost.Ghost`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from aloraserve.ledger.figures import Figures

MAX_ADAPTERS = 256
"""Names that a ledger distinguishes in a bucket; all others are :data:`~aloraserve.ledger.figures.OTHER`."""
MINUTE_S = 60
QUARTER_S = 15 * 60
LONGEST_FINE_S = 2 * 3600
"""Longer windows are answered from buckets of a quarter of an hour: a day of minutes would be 1,440 reads."""
LONGEST_WINDOW_S = 24 * 3600


@dataclass(frozen=True, slots=True)
class CachedBySource:
    """Prompt tokens that were not prefilled, by who first stored them.

    Args:
        own: the same adapter; of a call to the base model the base model.
        base: the base model, of a call to an adapter.
        sibling: another adapter.
        unknown: nobody knows any more.
    """

    own: int = 0
    base: int = 0
    sibling: int = 0
    unknown: int = 0


@dataclass(frozen=True, slots=True)
class CallSavings:
    """Effect of reuse across adapters on one call, as its replica estimates it.

    Args:
        saved_s: counterfactual TTFT less the actual one; negative where adapter-keyed caching would have been faster.
        saved_tokens: prompt tokens that the counterfactual prefills more than the call did; may be negative too.
        counterfactual_cached_tokens: prompt tokens that an adapter-keyed cache would have had.
        confidence: 0 to 1, see :func:`~aloraserve.savings.meter.confidence`.
        cached: the actual cached tokens by source.
        saved_queue_s: of ``saved_s``, what the call would have waited longer for the prefills before it.
    """

    saved_s: float
    saved_tokens: int
    counterfactual_cached_tokens: int
    confidence: float
    cached: CachedBySource
    saved_queue_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SavingsEntry:
    """One call for the ledger.

    Args:
        adapter: its name, empty for the base model.
        ttft_s: as it was.
        prompt_tokens: the prompt's length.
        savings: the replica's estimate.
    """

    adapter: str
    ttft_s: float
    prompt_tokens: int
    savings: CallSavings


@dataclass(slots=True)
class SavingsFigures(Figures):
    """Sums over calls; times in microseconds.

    Args:
        calls: with an estimate.
        ttft_us: of all calls together.
        saved_us: of calls that were faster than their counterfactual.
        lost_us: of those that were slower, as a positive number.
        saved_tokens: counterfactual less actual prefilled tokens; may be negative.
        prompt_tokens: of all calls together.
        own_tokens: cached, see :class:`CachedBySource`, as the next three.
        base_tokens: cached.
        sibling_tokens: cached.
        unknown_tokens: cached.
        saved_queue_us: of what was saved less what was lost, the wait for other calls; may be negative.
        confidence_milli: sum of the calls' confidences, in thousandths.
    """

    calls: int = 0
    ttft_us: int = 0
    saved_us: int = 0
    lost_us: int = 0
    saved_tokens: int = 0
    prompt_tokens: int = 0
    own_tokens: int = 0
    base_tokens: int = 0
    sibling_tokens: int = 0
    unknown_tokens: int = 0
    saved_queue_us: int = 0
    confidence_milli: int = 0

    @classmethod
    def of(cls, entry: SavingsEntry) -> SavingsFigures:
        """Return the figures of one call."""
        savings, cached = entry.savings, entry.savings.cached
        saved_us = round(savings.saved_s * 1e6)
        return cls(
            calls=1,
            ttft_us=round(entry.ttft_s * 1e6),
            saved_us=max(saved_us, 0),
            lost_us=max(-saved_us, 0),
            saved_tokens=savings.saved_tokens,
            prompt_tokens=entry.prompt_tokens,
            own_tokens=cached.own,
            base_tokens=cached.base,
            sibling_tokens=cached.sibling,
            unknown_tokens=cached.unknown,
            saved_queue_us=round(savings.saved_queue_s * 1e6),
            confidence_milli=round(savings.confidence * 1000),
        )

    @property
    def net_saved_s(self) -> float:
        """Seconds of TTFT saved less seconds lost."""
        return (self.saved_us - self.lost_us) / 1e6

    @property
    def saved_prefill_s(self) -> float:
        """Seconds of prefill that engines did not do: several that wait for one are saved one prefill."""
        return self.net_saved_s - self.saved_queue_us / 1e6

    @property
    def counterfactual_ttft_s(self) -> float:
        """Estimated TTFT of all calls together without that reuse."""
        return self.ttft_us / 1e6 + self.net_saved_s


FIGURES = SavingsFigures.names()


class SavingsLedger(Protocol):
    """Sums of savings by adapter over the last day, for one event loop.

    Invariants, for every ledger:

    - :meth:`add` does no I/O, never fails and takes bounded time. A ledger keeps figures of at most ``MAX_ADAPTERS``
      names apart in a bucket of time; those beyond them are summed under :data:`~aloraserve.ledger.figures.OTHER`.
    - Nothing grows without bound, and nothing older than a day is kept.
    - Windows are whole buckets: of a minute up to ``LONGEST_FINE_S``, else of a quarter of an hour. A window reaches
      back to the start of the bucket that it begins in, so it may hold up to a bucket more than was asked for.
    - Several ledgers of one fleet add up where they share a server. It is advisory: what could not be written for a
      while is lost, so totals may be too small, never too large.
    """

    def add(self, entry: SavingsEntry, at_s: float) -> None:
        """Count a call.

        Args:
            entry: the call.
            at_s: when it was answered, seconds since 1970.
        """
        ...

    async def flush(self) -> None:
        """Write what was added to where others read it.

        Raises:
            DirectoryUnavailableError: the server cannot be reached; what was to be written is tried again with the next
                flush, and lost after a while.
        """
        ...

    async def totals(self, window_s: float, now_s: float) -> dict[str, SavingsFigures]:
        """Return the sums of a window that ends now, by adapter; what was added here counts, flushed or not.

        Args:
            window_s: how far back, up to ``LONGEST_WINDOW_S``.
            now_s: seconds since 1970.

        Raises:
            DirectoryUnavailableError: the server cannot be reached.
            ValueError: the window is not one of those accepted.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


def buckets(window_s: float, now_s: float) -> tuple[int, list[int]]:
    """Return the width of a window's buckets in seconds, and their numbers since 1970.

    Raises:
        ValueError: the window is not positive or longer than ``LONGEST_WINDOW_S``.
    """
    if not 0 < window_s <= LONGEST_WINDOW_S:
        raise ValueError(f"window_s is {window_s:g}; above 0 and up to {LONGEST_WINDOW_S} are accepted")
    width = MINUTE_S if window_s <= LONGEST_FINE_S else QUARTER_S
    return width, list(range(int((now_s - window_s) // width), int(now_s // width) + 1))
