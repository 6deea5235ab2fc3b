"""What is hot, in turns between tenants: none of them has another one's part because its prompts come more often.

Each tenant's prefixes are in an order of their own. Next comes that of the tenant which, with it, has had the fewest
tokens for its weight. So the order may be cut off anywhere.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar


class Prefix(Protocol):
    """Something with tokens, hotter or less hot than others."""

    @property
    def tokens(self) -> int:
        """How many it has."""
        ...

    @property
    def heat(self) -> float:
        """Hits that it has; they decide between tenants that have had the same."""
        ...


P = TypeVar("P", bound=Prefix)


class Share(NamedTuple, Generic[P]):
    """A tenant's prefixes.

    Args:
        weight: of the tenant, above 0.
        prefixes: in their order.
    """

    weight: float
    prefixes: Sequence[P]


def in_turns(shares: Mapping[Hashable, Share[P]], max_tokens: float) -> Iterator[P]:
    """Yield the tenants' prefixes in turns; a tenant whose next one does not fit any more has no further turn.

    Args:
        shares: of the tenants.
        max_tokens: of all prefixes together.
    """
    left = max_tokens
    turns: list[tuple[float, float, int, int]] = []
    parts = list(shares.values())

    def queue(number: int, index: int, had: float) -> None:
        weight, prefixes = parts[number]
        if index < len(prefixes):
            prefix = prefixes[index]
            heapq.heappush(turns, (had + prefix.tokens / weight, -prefix.heat, number, index))

    for number in range(len(parts)):
        queue(number, 0, 0.0)
    while turns:
        had, _, number, index = heapq.heappop(turns)
        prefix = parts[number].prefixes[index]
        if prefix.tokens <= left:
            left -= prefix.tokens
            yield prefix
            queue(number, index + 1, had)
