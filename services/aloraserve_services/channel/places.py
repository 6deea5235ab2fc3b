"""Places of a replica or a gateway: how many calls it takes in, and how many of them each tenant may always have."""

from __future__ import annotations

from dataclasses import dataclass

from aloraserve.routing.fair_share import NO_TENANT, TenantShare

MOST = 2
"""Times the capacity: with so much held nobody gets a place any more."""


@dataclass(slots=True)
class _Held:
    weight: float
    amount: int = 0


class Places:
    """Counts calls by tenant, or anything else of which each holds some amount.

    There is room while fewer calls run than there are places. Beyond that a tenant still gets a place that has fewer
    than its share of them, by weight among those that have any: whoever came first cannot keep others out. So at most
    ``MOST`` times the capacity is taken, and that only until calls of those beyond their share have ended.

    Args:
        capacity: held at once.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.taken = 0
        self._held: dict[str, _Held] = {}

    def has_room(self, share: TenantShare | None = None, amount: int = 1) -> bool:
        """Return whether a tenant may hold so much more."""
        if self.taken + amount <= self.capacity:
            return True
        if share is None or (len(self._held) == 1 and share.tenant in self._held):
            return False
        held = self._held.get(share.tenant)
        others = sum(held.weight for tenant, held in self._held.items() if tenant != share.tenant)
        own = amount if held is None else held.amount + amount
        guaranteed = max(int(self.capacity * share.weight / (others + share.weight)), 1)
        return own <= guaranteed and self.taken + amount <= MOST * self.capacity

    def take(self, share: TenantShare | None, amount: int = 1) -> None:
        """Count what a tenant holds, room or not."""
        share = share or NO_TENANT
        self.taken += amount
        held = self._held.setdefault(share.tenant, _Held(share.weight))
        held.weight = share.weight
        held.amount += amount

    def leave(self, share: TenantShare | None, amount: int = 1) -> None:
        """Count so much no more."""
        share = share or NO_TENANT
        self.taken -= amount
        held = self._held[share.tenant]
        held.amount -= amount
        if not held.amount:
            del self._held[share.tenant]
