"""Give adapters that are loaded again keys of their own (``vllm/v1/engine/core.py``, ``vllm/v1/core/sched``)."""

from __future__ import annotations

import functools
from typing import Any

from vllm_alora.patches.seam import replace
from vllm_alora.reloads import PINNED, RELOADS


def apply() -> None:
    """Wrap ``EngineCore.add_lora`` and ``remove_lora``, and ``Scheduler.add_request``."""
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.engine.core import EngineCore

    replace(EngineCore, "add_lora", _wrap_add, "lora_request")
    replace(EngineCore, "remove_lora", _wrap_remove, "lora_id")
    replace(Scheduler, "add_request", _wrap_add_request, "request")


def _wrap_add(original: Any) -> Any:
    @functools.wraps(original)
    def add_lora(self: Any, lora_request: Any) -> Any:
        loaded = original(self, lora_request)
        if lora_request.load_inplace and RELOADS.note_reload(lora_request):
            _key_again(self.scheduler.requests.values(), lora_request.lora_int_id)
        return loaded

    return add_lora


def _wrap_remove(original: Any) -> Any:
    @functools.wraps(original)
    def remove_lora(self: Any, lora_id: int) -> Any:
        removed = original(self, lora_id)
        RELOADS.note_removal(lora_id)
        _key_again(self.scheduler.requests.values(), lora_id)
        return removed

    return remove_lora


def _wrap_add_request(original: Any) -> Any:
    @functools.wraps(original)
    def add_request(self: Any, request: Any) -> Any:
        # Blocks are hashed when a request arrives, on another thread than the one that loads adapters: it may have
        # come in before a reload and be scheduled after it.
        if request.lora_request is not None:
            _key_again([request], request.lora_request.lora_int_id)
        return original(self, request)

    return add_request


def _key_again(requests: Any, lora_int_id: int) -> None:
    """Hash the blocks of the adapter's waiting requests again if they are of an earlier generation.

    A request that has begun keeps its keys: nothing new will ever look for them.
    """
    for request in requests:
        adapter = request.lora_request
        if adapter is None or adapter.lora_int_id != lora_int_id or request.num_computed_tokens:
            continue
        if getattr(request, PINNED, None) not in (None, RELOADS.of(adapter)):
            setattr(request, PINNED, None)
            request.block_hashes.clear()
            request.update_block_hashes()
