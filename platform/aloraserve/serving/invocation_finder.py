"""Finds the invocations that a base model generates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
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


class InvocationFinder:
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

    def find(self, token_ids: Sequence[int], start: int) -> Invoked | None:
        """Return the first invocation that ends with one of the tokens from ``start`` on."""
        for place in range(start, len(token_ids)):
            for adapter in self._by_last.get(token_ids[place], ()):
                width = len(adapter.invocation_ids)
                if tuple(token_ids[max(0, place + 1 - width) : place + 1]) == adapter.invocation_ids:
                    return Invoked(adapter, place + 1)
        return None
