"""A process's knowledge of adapters: the invocation tokens of each load, read once and kept."""

from __future__ import annotations

import threading
from typing import Any

from cachetools import LRUCache

from vllm_alora.adapter_config import AdapterConfigError, Invocation
from vllm_alora.adapter_files import read_invocation

MAX_KNOWN = 4096
_Adapter = tuple[int, str, str]


class UnreadableAdapterError(ValueError):
    """Raised when an adapter's configuration is no valid one, so that it can be served as nothing."""


class KnownAdapters:
    """Invocation tokens by adapter, of the load that the engine has. Safe to use from several threads.

    Front ends and engine cores have one each. Bounded: the least recently used of more than ``max_known`` adapters is
    read again when it comes back.

    Args:
        max_known: how many adapters are remembered.
    """

    def __init__(self, max_known: int = MAX_KNOWN) -> None:
        self._lock = threading.Lock()
        self._invocations: LRUCache[_Adapter, Invocation | None] = LRUCache(max_known)
        self._reloaded: LRUCache[_Adapter, bool] = LRUCache(max_known)
        self._loads = 0

    def knows(self, lora_request: Any) -> bool:
        """Say whether an adapter's kind is known without reading anything."""
        with self._lock:
            return _adapter(lora_request) in self._invocations

    def invocation(self, lora_request: Any) -> Invocation | None:
        """Return the invocation tokens of a request's adapter; None for a plain LoRA, or if this machine cannot know.

        The second is not remembered: the files may come.

        Raises:
            UnreadableAdapterError: its configuration is no valid one. Nothing is remembered.
        """
        adapter = _adapter(lora_request)
        while True:
            with self._lock:
                if adapter in self._invocations:
                    return self._invocations[adapter]
                loads = self._loads
            found = read_adapter(lora_request)
            if found is None:
                return None
            with self._lock:
                # A load in the meantime may have changed what was read.
                if loads == self._loads:
                    self._invocations[adapter] = found[0]

    def learn(self, lora_request: Any, invocation: Invocation | None) -> None:
        """Remember the invocation tokens of an adapter that somebody else has read."""
        with self._lock:
            self._invocations[_adapter(lora_request)] = invocation

    def note_load(self, lora_request: Any) -> None:
        """Forget what was read of an adapter that the engine is asked to load."""
        adapter = _adapter(lora_request)
        with self._lock:
            self._loads += 1
            self._invocations.pop(adapter, None)
            if lora_request.load_inplace:
                self._reloaded[adapter] = True

    def note_removal(self, lora_int_id: int) -> None:
        """Forget what was read of the adapters under an id."""
        with self._lock:
            self._loads += 1
            for adapter in [adapter for adapter in self._invocations if adapter[0] == lora_int_id]:
                del self._invocations[adapter]

    def was_reloaded(self, lora_request: Any) -> bool:
        """Say whether the engine was asked to load this adapter again, by a call of its own."""
        with self._lock:
            return self._reloaded.get(_adapter(lora_request), False)


def _adapter(lora_request: Any) -> _Adapter:
    return lora_request.lora_int_id, lora_request.lora_name, lora_request.lora_path


def read_adapter(lora_request: Any) -> tuple[Invocation | None] | None:
    """Return an adapter's invocation tokens in a tuple of one, read now; None if this machine has no files of it.

    Raises:
        UnreadableAdapterError: its configuration is no valid one.
    """
    try:
        return read_invocation(lora_request)
    except AdapterConfigError as error:
        raise UnreadableAdapterError(
            f"adapter_config.json of {lora_request.lora_name!r} cannot be read: {error}"
        ) from error


ADAPTERS = KnownAdapters()
"""This process's."""
