"""Something that a gateway has so much of, shared between tenants: none of them can take it from the others."""

from __future__ import annotations


class FairBudget:
    """Amounts that tenants hold. For one event loop.

    Up to the budget anyone may hold anything. Above it, up to ``HEADROOM`` times as much, only a tenant that has less
    than its share of the budget, by weight among those that hold something: one that came first and took all of it
    does not keep others out.

    Args:
        budget: that all hold together, but for newcomers.
    """

    HEADROOM = 2

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._held: dict[str, int] = {}
        self._weights: dict[str, float] = {}
        self.total = 0

    def has_room(self, tenant: str | None, amount: int = 1, weight: float = 1.0) -> bool:
        """Return whether a tenant may hold so much more.

        Args:
            tenant: who asks, None for callers without a tenant, which are one.
            amount: to be held.
            weight: of the tenant, above 0.
        """
        name, total = tenant or "", self.total + amount
        if total <= self._budget:
            return True
        others = sum(weight for other, weight in self._weights.items() if other != name)
        share = self._budget * weight / (weight + others)
        return total <= self.HEADROOM * self._budget and self._held.get(name, 0) + amount <= share

    def hold(self, tenant: str | None, amount: int = 1, weight: float = 1.0) -> bool:
        """Hold so much more, if there is room; return whether there was."""
        if not self.has_room(tenant, amount, weight):
            return False
        name = tenant or ""
        self._held[name] = self._held.get(name, 0) + amount
        self._weights[name] = weight
        self.total += amount
        return True

    def release(self, tenant: str | None, amount: int = 1) -> None:
        """Give back so much of what a tenant holds."""
        name = tenant or ""
        self._held[name] -= amount
        self.total -= amount
        if not self._held[name]:
            del self._held[name], self._weights[name]
