"""Places of a replica: how many calls it takes in, and how many of them each tenant may always have."""

from __future__ import annotations

from dataclasses import dataclass

from aloraserve.routing.fair_share import NO_TENANT, TenantShare

MOST = 2
"""Times the capacity: with so many calls nobody gets a place any more."""


@dataclass(slots=True)
class _Held:
    weight: float
    calls: int = 0


class Places:
    """Counts calls by tenant.

    There is room while fewer calls run than there are places. Beyond that a tenant still gets a place that has fewer
    than its share of them, by weight among those that have any: whoever came first cannot keep others out. So at most
    ``MOST`` times the capacity is taken, and that only until calls of those beyond their share have ended.

    Args:
        capacity: calls at once.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.taken = 0
        self._held: dict[str, _Held] = {}

    def has_room(self, share: TenantShare | None = None) -> bool:
        """Return whether a tenant may have one more call."""
        if self.taken < self.capacity:
            return True
        if share is None or (len(self._held) == 1 and share.tenant in self._held):
            return False
        held = self._held.get(share.tenant)
        others = sum(held.weight for tenant, held in self._held.items() if tenant != share.tenant)
        calls = 0 if held is None else held.calls
        guaranteed = max(int(self.capacity * share.weight / (others + share.weight)), 1)
        return calls < guaranteed and self.taken < MOST * self.capacity

    def take(self, share: TenantShare | None) -> None:
        """Count a call."""
        share = share or NO_TENANT
        self.taken += 1
        held = self._held.setdefault(share.tenant, _Held(share.weight))
        held.weight = share.weight
        held.calls += 1

    def leave(self, share: TenantShare | None) -> None:
        """Count a call no more."""
        share = share or NO_TENANT
        self.taken -= 1
        held = self._held[share.tenant]
        held.calls -= 1
        if not held.calls:
            del self._held[share.tenant]
