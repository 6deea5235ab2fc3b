"""What one call saved, and the contract of the ledger that adds calls up.

The *counterfactual* of a call is the same call, on the same replica at the same moment, in an engine whose cache is
keyed by adapter from the first token on (every engine's cache of plain LoRAs). What such a cache would hold is the
:class:`~aloraserve.savings.ghost.Ghost`'s.

Invariants of a ledger:

- It is advisory: what it cannot take is lost to the figures and to nothing else.
- Any number of gateways add to it; totals are of all of them.
- It is bounded: a bucket a minute, kept for ``KEPT_MINUTES``; adapters are those of the fleet, at most ``MAX_ADAPTERS``
  and :data:`OTHER` for the rest.
- A method raises :class:`~aloraserve.errors.DirectoryUnavailableError` when the backend is gone, and nothing else for
  that reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal, Protocol

Confidence = Literal["none", "low", "medium", "high"]
KEPT_MINUTES = 24 * 60
MAX_ADAPTERS = 256
OTHER = "other"


@dataclass(frozen=True, slots=True)
class Sources:
    """Cached tokens of a call by who first computed them on this replica.

    Args:
        own: a call of the same adapter, or of the base model for one of its own.
        base: the base model.
        sibling: a call of another adapter, before that one's activation point.
    """

    own: int = 0
    base: int = 0
    sibling: int = 0


@dataclass(frozen=True, slots=True)
class Savings:
    """What reuse across adapters saved one call. Negative where the adapter-keyed cache would have held more.

    Args:
        cached_tokens: prompt tokens that were not computed.
        ghost_tokens: those that the adapter-keyed cache would have saved.
        sources: whose the cached ones are.
        saved_s: seconds of prefill, None while the replica's prefill model is unknown.
        confidence: how far ``saved_s`` may be trusted.
    """

    cached_tokens: int
    ghost_tokens: int
    sources: Sources = Sources()
    saved_s: float | None = None
    confidence: Confidence = "none"

    @property
    def saved_tokens(self) -> int:
        """Prompt tokens that were computed fewer than without reuse across adapters."""
        return self.cached_tokens - self.ghost_tokens


@dataclass(frozen=True, slots=True)
class SavingsTotals:
    """Sums over calls.

    Args:
        calls: answered.
        estimated: of those, with seconds saved; the four sums of seconds are theirs.
        prompt_tokens: of all calls.
        cached_tokens: of those, not computed.
        saved_tokens: net.
        own_tokens: see :class:`Sources`, like the next two.
        base_tokens: likewise.
        sibling_tokens: likewise.
        ttft_s: as it was.
        saved_s: net.
        lost_s: how much the calls that lost something lost together; at least 0, and part of ``saved_s``.
    """

    calls: float = 0
    estimated: float = 0
    prompt_tokens: float = 0
    cached_tokens: float = 0
    saved_tokens: float = 0
    own_tokens: float = 0
    base_tokens: float = 0
    sibling_tokens: float = 0
    ttft_s: float = 0.0
    saved_s: float = 0.0
    lost_s: float = 0.0

    @property
    def counterfactual_s(self) -> float:
        """TTFT that the estimated calls would have had together."""
        return self.ttft_s + self.saved_s

    def __add__(self, other: SavingsTotals) -> SavingsTotals:
        return SavingsTotals(*(getattr(self, name) + getattr(other, name) for name in FIGURES))

    @classmethod
    def of(cls, savings: Savings, prompt_tokens: int, ttft_s: float) -> SavingsTotals:
        """Return the totals of one call whose TTFT was ``ttft_s``."""
        saved_s = savings.saved_s
        return cls(
            calls=1,
            estimated=0 if saved_s is None else 1,
            prompt_tokens=prompt_tokens,
            cached_tokens=savings.cached_tokens,
            saved_tokens=savings.saved_tokens,
            own_tokens=savings.sources.own,
            base_tokens=savings.sources.base,
            sibling_tokens=savings.sources.sibling,
            ttft_s=0.0 if saved_s is None else ttft_s,
            saved_s=saved_s or 0.0,
            lost_s=max(0.0, -(saved_s or 0.0)),
        )


FIGURES = tuple(item.name for item in fields(SavingsTotals))
ByAdapter = Mapping[str, SavingsTotals]


class SavingsLedger(Protocol):
    """Totals by minute and adapter; see the module's docstring."""

    async def add(self, minute: int, totals: ByAdapter) -> None:
        """Add to a minute's totals.

        Args:
            minute: since 1970.
            totals: by adapter, "" for the base model.
        """
        ...

    async def window(self, first: int, last: int) -> dict[str, SavingsTotals]:
        """Return the totals by adapter of the minutes from ``first`` to ``last``, both included.

        Minutes beyond the last ``KEPT_MINUTES`` are empty.
        """
        ...

    async def close(self) -> None:
        """Release connections. Further calls are undefined."""
        ...
