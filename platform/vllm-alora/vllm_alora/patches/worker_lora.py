"""What a worker may load (``vllm/lora/worker_manager.py``).

An adapter that was loaded in place is known by its id: a request from before names the path of the earlier weights, and
must not bring them back. A worker remembers the invocation of each adapter that it has, whatever becomes of the files.
An aLoRA adapter whose configuration is nowhere to be read (weights handed over in memory) is refused, because nobody
could find its activation points.
"""

from __future__ import annotations

import functools
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from cachetools import LRUCache

from vllm_alora.adapter_config import Invocation
from vllm_alora.adapter_files import local_folder
from vllm_alora.adapters import MAX_KNOWN
from vllm_alora.patches.seam import replace
from vllm_alora.patches.slots import loaded, loading_between_steps

_LATEST = "_alora_loaded_in_place"
_INVOCATIONS = "_alora_invocations"
_LOADING: ContextVar[_Load | None] = ContextVar("vllm_alora_loading", default=None)


@dataclass
class _Load:
    """A load under way, and what its configuration says."""

    lora_request: Any
    invocations: list[Invocation | None]


def apply() -> None:
    """Wrap ``LRUCacheWorkerLoRAManager.add_adapter`` and ``remove_adapter``."""
    from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager

    replace(LRUCacheWorkerLoRAManager, "add_adapter", _wrap_add, "lora_request")
    replace(LRUCacheWorkerLoRAManager, "remove_adapter", _wrap_remove, "adapter_id")


def note_invocation(invocation: Invocation | None) -> None:
    """Take what the configuration of the adapter that is being loaded says."""
    load = _LOADING.get()
    if load is not None:
        load.invocations.append(invocation)


def is_loaded_from_memory() -> bool:
    """Say whether the adapter that is being loaded has no files that could be read."""
    load = _LOADING.get()
    return load is not None and local_folder(load.lora_request) is None


def loaded_invocation(worker: Any, lora_int_id: int) -> tuple[Invocation | None] | None:
    """Return the invocation tokens of an adapter that a worker has loaded in a tuple of one, None if it has not."""
    if lora_int_id not in worker.list_loras():
        return None
    found: LRUCache[int, Invocation | None] = worker.model_runner.lora_manager.__dict__.get(_INVOCATIONS, {})
    return (found[lora_int_id],) if lora_int_id in found else None


def _wrap_add(original: Any) -> Any:
    @functools.wraps(original)
    def add_adapter(self: Any, lora_request: Any) -> Any:
        latest = self.__dict__.setdefault(_LATEST, LRUCache(MAX_KNOWN))
        if not lora_request.load_inplace:
            lora_request = latest.get(lora_request.lora_int_id, lora_request)
        load = _Load(lora_request, [])
        token, slots_token = _LOADING.set(load), loading_between_steps()
        try:
            added = original(self, lora_request)
        finally:
            loaded(slots_token)
            _LOADING.reset(token)
        if load.invocations:
            known = self.__dict__.setdefault(_INVOCATIONS, LRUCache(MAX_KNOWN))
            known[lora_request.lora_int_id] = load.invocations[-1]
        if lora_request.load_inplace:
            from msgspec.structs import replace as replaced

            latest[lora_request.lora_int_id] = replaced(lora_request, load_inplace=False)
        return added

    return add_adapter


def _wrap_remove(original: Any) -> Any:
    @functools.wraps(original)
    def remove_adapter(self: Any, adapter_id: int) -> Any:
        self.__dict__.get(_LATEST, {}).pop(adapter_id, None)
        return original(self, adapter_id)

    return remove_adapter
