"""Finds the invocations that a base model generates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from aloraserve.adapters import AdapterVersion


class Invoked(NamedTuple):
    """An invocation that was generated.

    Args:
        adapter: that it invokes.
        end: index of the token behind it.
    """

    adapter: AdapterVersion
    end: int


class InvocationIndex:
    """Knows the invocations of some adapters; a token costs a look at those that end with it.

    Args:
        adapters: that may be invoked; plain LoRAs are passed over. Of two with one invocation the first counts, of two
            that end at once the longer.
    """

    def __init__(self, adapters: Iterable[AdapterVersion]) -> None:
        self._by_last: defaultdict[int, list[AdapterVersion]] = defaultdict(list)
        for adapter in adapters:
            if adapter.invocation_ids:
                self._by_last[adapter.invocation_ids[-1]].append(adapter)
        for ending in self._by_last.values():
            ending.sort(key=lambda adapter: -len(adapter.invocation_ids))

    def ending_at(self, token_ids: Sequence[int], place: int) -> Iterable[AdapterVersion]:
        """Yield the adapters whose invocation ends with the token at a place."""
        for adapter in self._by_last.get(token_ids[place], ()):
            if _ends_with(token_ids, place + 1, adapter.invocation_ids):
                yield adapter


class InvocationFinder:
    """Finds the adapters that one caller's answer invokes.

    Args:
        index: of the adapters.
        choose: returns the version that the caller gets of an adapter, None if it may not use it.
    """

    def __init__(
        self,
        index: InvocationIndex,
        choose: Callable[[AdapterVersion], AdapterVersion | None] = lambda adapter: adapter,
    ) -> None:
        self._index = index
        self._choose = choose

    def find(self, token_ids: Sequence[int], start: int) -> Invoked | None:
        """Return the first invocation that ends with one of the tokens from ``start`` on."""
        for place in range(start, len(token_ids)):
            for adapter in self._index.ending_at(token_ids, place):
                chosen = self._choose(adapter)
                # Another version may have another invocation.
                if chosen is not None and _ends_with(token_ids, place + 1, chosen.invocation_ids):
                    return Invoked(chosen, place + 1)
        return None


def _ends_with(token_ids: Sequence[int], end: int, invocation: Sequence[int]) -> bool:
    return bool(invocation) and tuple(token_ids[max(0, end - len(invocation)) : end]) == tuple(invocation)


NOTHING = InvocationFinder(InvocationIndex(()))
"""Finds no invocation."""
