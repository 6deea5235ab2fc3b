"""The *generation* of an adapter: which weights its blocks were computed with.

vLLM keys an adapter's blocks by its name (and, since 0.31, its path). Weights that were loaded again under the same
name and path must not meet the blocks of the old ones. So a generation is part of the keys: a digest of the adapter's
files, which every engine that shares a store of blocks finds alike, whatever each of them loaded before. Weights that
nobody can read (adapters loaded from memory) have vLLM's own keys until they are loaded again; then each load gets a
name that no process uses twice.

This state lives in the engine core's process, where blocks are hashed and where ``add_lora`` arrives: requests are
hashed on one thread, adapters loaded on another.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from typing import Any

from cachetools import LRUCache

from vllm_alora.adapter_files import weights_digest

MAX_KNOWN = 4096
PINNED = "_alora_generation"
"""Attribute of vLLM's ``Request``: the generation of the blocks that it fills."""
EARLIER = "_alora_earlier_generations"
"""Attribute of vLLM's ``Request``: [(end, generation)], its first tokens that were computed with other weights."""

_Adapter = tuple[str, str, int]
VLLMS_OWN = ""
"""Generation that adds nothing to vLLM's keys."""


class Reloads:
    """Generations by adapter: its name, path and integer id. Safe to use from several threads.

    Bounded: once more than ``max_known`` adapters were seen the least recently used are forgotten. One that comes back
    is read again, or counts as loaded again: sharing may be lost, never exactness.

    Args:
        max_known: how many adapters are remembered.
        digest: gives a digest of the weights of a ``LoRARequest``, None if nobody can read them.
    """

    def __init__(self, max_known: int = MAX_KNOWN, digest: Callable[[Any], str | None] = weights_digest) -> None:
        self._digest = digest
        self._lock = threading.Lock()
        self._known: LRUCache[_Adapter, str] = LRUCache(max_known)
        self._in_place: LRUCache[int, str] = LRUCache(max_known)
        self._names: set[tuple[str, str]] = set()
        self._forgot = self._forgot_in_place = False
        self._loads = 0

    def of(self, lora_request: Any) -> str:
        """Return the adapter's generation."""
        adapter = _adapter(lora_request)
        while True:
            with self._lock:
                if adapter in self._known:
                    return self._known[adapter]
                loads = self._loads
            weights = self._digest(lora_request)
            with self._lock:
                # A load in the meantime may have changed the files.
                if loads == self._loads and adapter not in self._known:
                    self._remember(adapter, self._first(adapter, weights))

    def learn(self, lora_request: Any, weights: str | None) -> None:
        """Take a digest that somebody else found, of an adapter whose files this process cannot read."""
        if weights is not None:
            with self._lock:
                self._remember(_adapter(lora_request), weights)

    def note_reload(self, lora_request: Any) -> bool:
        """Start the generation of an adapter that was loaded again; return False if its weights are the same.

        All requests under its id run with these weights from now on, whatever path they name.
        """
        adapter = _adapter(lora_request)
        generation = self._digest(lora_request) or _unique()
        with self._lock:
            self._loads += 1
            before = self._known.get(adapter)
            for other in [other for other in self._known if other[2] == adapter[2]]:
                self._known[other] = generation
            self._remember(adapter, generation)
            self._forgot_in_place |= adapter[2] not in self._in_place and len(self._in_place) == self._in_place.maxsize
            self._in_place[adapter[2]] = generation
        return generation != before

    def note_removal(self, lora_int_id: int) -> None:
        """Forget what was loaded under an id: its next load may have other weights."""
        with self._lock:
            self._loads += 1
            self._in_place.pop(lora_int_id, None)
            for adapter in [adapter for adapter in self._known if adapter[2] == lora_int_id]:
                del self._known[adapter]

    def _first(self, adapter: _Adapter, weights: str | None) -> str:
        # Requests under one id run with what is loaded there, so another name or path there says nothing of weights.
        if adapter[2] in self._in_place:
            return self._in_place[adapter[2]]
        others = any(other[2] == adapter[2] for other in self._known)
        if self._forgot_in_place or (others and weights is not None):
            return _unique()
        if weights is not None:
            return weights
        return _unique() if self._forgot or adapter[:2] in self._names else VLLMS_OWN

    def _remember(self, adapter: _Adapter, generation: str) -> None:
        if adapter not in self._known and len(self._known) == self._known.maxsize:
            self._forgot = True
            self._names.clear()
        self._known[adapter] = generation
        if not self._forgot:
            self._names.add(adapter[:2])


def _adapter(lora_request: Any) -> _Adapter:
    return lora_request.lora_name, lora_request.lora_path, lora_request.lora_int_id


def _unique() -> str:
    return f"load-{secrets.token_hex(8)}"


RELOADS = Reloads()
"""This process's."""


def generation_of(request: Any) -> str:
    """Return the generation of the blocks that a request fills; pinned when the request is made."""
    pinned = getattr(request, PINNED, None)
    if pinned is None:
        pinned = RELOADS.of(request.lora_request)
        setattr(request, PINNED, pinned)
    return str(pinned)


def generation_at(request: Any, end: int) -> str:
    """Return the generation of the block that ends at a position, exclusive."""
    for boundary, generation in getattr(request, EARLIER, ()):
        if end <= boundary:
            return str(generation)
    return generation_of(request)


def is_stale(request: Any) -> bool:
    """Say whether a request fills blocks of other weights than its adapter has now."""
    return generation_of(request) != RELOADS.of(request.lora_request)


def begin_again(request: Any) -> None:
    """Let a request that has no adapter's KV fill blocks of the weights that its adapter has now."""
    request.__dict__.pop(EARLIER, None)
    setattr(request, PINNED, RELOADS.of(request.lora_request))


def go_on_mixed(request: Any, computed_tokens: int) -> None:
    """Give the blocks that a running request completes from now on a generation that is nobody else's.

    Their KV depends on tokens before ``computed_tokens``, which were computed with the adapter's earlier weights.
    """
    earlier = [*getattr(request, EARLIER, ()), (computed_tokens, generation_of(request))]
    setattr(request, EARLIER, earlier)
    setattr(request, PINNED, _unique())
