"""Which load of an adapter a request's blocks belong to.

vLLM keys an adapter's blocks by its name (and, since 0.31, its path). Weights that were loaded again under the same
name and path must not meet the blocks of the old ones, so each reload gets a *generation*, which is part of the keys.
The first load is generation 0 and keeps vLLM's own keys, so that engines that share blocks through a connector still
agree.

This state lives in the engine core's process, where blocks are hashed and where ``add_lora`` arrives.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

MAX_KNOWN = 4096
PINNED = "_alora_generation"
"""Attribute of vLLM's ``Request``: a request's blocks belong to one generation, however long it runs."""

_Adapter = tuple[str, str, int]


class Reloads:
    """Generations by adapter: its name, path and integer id.

    A second id for the same name and path is a load of its own (unloaded and loaded again). Bounded: once more than
    ``max_known`` adapters were seen the least recently used are forgotten, and whatever comes back then counts as
    loaded again: sharing is lost, never exactness.

    Args:
        max_known: how many adapters are remembered.
    """

    def __init__(self, max_known: int = MAX_KNOWN) -> None:
        self._max_known = max_known
        self._known: OrderedDict[_Adapter, int] = OrderedDict()
        self._names: set[tuple[str, str]] = set()
        self._last = 0
        self._forgot = False

    def of(self, lora_request: Any) -> int:
        """Return the adapter's generation, 0 for its first load."""
        adapter = _adapter(lora_request)
        if adapter not in self._known:
            is_reload = self._forgot or adapter[:2] in self._names
            self._remember(adapter, self._next() if is_reload else 0)
        self._known.move_to_end(adapter)
        return self._known[adapter]

    def note_reload(self, lora_request: Any) -> bool:
        """Start the adapter's next generation; return False if no request can have used an earlier one."""
        adapter = _adapter(lora_request)
        if adapter not in self._known and adapter[:2] not in self._names and not self._forgot:
            return False
        self._remember(adapter, self._next())
        return True

    def note_removal(self, lora_int_id: int) -> None:
        """Start the next generation of what was loaded under an id: its next load may have other weights."""
        for adapter in self._known:
            if adapter[2] == lora_int_id:
                self._known[adapter] = self._next()

    def _next(self) -> int:
        self._last += 1
        return self._last

    def _remember(self, adapter: _Adapter, generation: int) -> None:
        self._known[adapter] = generation
        self._names.add(adapter[:2])
        while len(self._known) > self._max_known:
            self._known.popitem(last=False)
            self._forgot = True
        if self._forgot:
            self._names.clear()


def _adapter(lora_request: Any) -> _Adapter:
    return lora_request.lora_name, lora_request.lora_path, lora_request.lora_int_id


RELOADS = Reloads()
"""This process's."""


def generation_of(request: Any) -> int:
    """Return the generation that a request's blocks belong to; decided when its first block is hashed."""
    pinned = getattr(request, PINNED, None)
    if pinned is None:
        pinned = RELOADS.of(request.lora_request)
        setattr(request, PINNED, pinned)
    return int(pinned)
