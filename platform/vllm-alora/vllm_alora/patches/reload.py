"""Keep blocks of an adapter's different weights apart (``vllm/v1/engine/core.py``, ``vllm/v1/core/sched``)."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from vllm_alora.activation import activation_of
from vllm_alora.adapters import ADAPTERS, read_adapter
from vllm_alora.decision import refusal
from vllm_alora.patches.seam import replace
from vllm_alora.reloads import EARLIER, RELOADS, begin_again, go_on_mixed, is_stale
from vllm_alora.setups import refuse_setup

HASHED_AGAIN = "_alora_hashed_again"
"""Attribute of vLLM's ``Request``: its block hashes have changed, and whoever copied them must copy them again."""
LOOKAHEAD = "_alora_lookahead"
"""Attribute of vLLM's ``Request``: how many tokens after a block its hash covers (vLLM 0.33 with EAGLE)."""


def apply() -> None:
    """Wrap ``EngineCore.add_lora`` and ``remove_lora``, ``Scheduler.add_request`` and ``_preempt_request``."""
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.engine.core import EngineCore

    replace(EngineCore, "add_lora", _wrap_add, "lora_request")
    replace(EngineCore, "remove_lora", _wrap_remove, "lora_id")
    replace(Scheduler, "add_request", _wrap_add_request, "request")
    replace(Scheduler, "_preempt_request", _wrap_preempt, "request")


def _wrap_add(original: Any) -> Any:
    @functools.wraps(original)
    def add_lora(self: Any, lora_request: Any) -> Any:
        if not lora_request.load_inplace and lora_request.lora_int_id in self.list_loras():
            return original(self, lora_request)  # The workers read nothing.
        _refuse(self, lora_request)
        loaded = original(self, lora_request)
        ADAPTERS.note_load(lora_request)
        if lora_request.load_inplace:
            RELOADS.note_reload(lora_request)
        else:
            RELOADS.note_removal(lora_request.lora_int_id)
        # Read now: the files may be gone when its first request comes.
        ADAPTERS.invocation(lora_request)
        RELOADS.of(lora_request)
        _key_again(self.scheduler.requests.values(), lora_request.lora_int_id)
        return loaded

    return add_lora


def _refuse(core: Any, lora_request: Any) -> None:
    """Refuse an adapter that this engine cannot serve before the workers load it."""
    found = read_adapter(lora_request)
    if found is None:
        return
    if found[0] is not None:
        refuse_setup(core.vllm_config, lora_request.lora_name)
    running = (request.lora_request for request in core.scheduler.requests.values())
    of_this_id = [adapter for adapter in running if adapter and adapter.lora_int_id == lora_request.lora_int_id]
    if any(ADAPTERS.invocation(adapter) != found[0] for adapter in of_this_id):
        raise refusal(
            f"LoRA adapter {lora_request.lora_name!r} cannot be loaded again with another invocation while requests "
            "for it are unfinished. Wait for them, or load it under another name.",
            "lora_name",
        )


def _wrap_remove(original: Any) -> Any:
    @functools.wraps(original)
    def remove_lora(self: Any, lora_id: int) -> Any:
        removed = original(self, lora_id)
        ADAPTERS.note_removal(lora_id)
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
            setattr(request, LOOKAHEAD, getattr(self, "num_hash_lookahead_tokens", 0))
        return original(self, request)

    return add_request


def _wrap_preempt(original: Any) -> Any:
    @functools.wraps(original)
    def preempt_request(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        preempted = original(self, request, *args, **kwargs)
        # All of it is computed again, with the weights that the adapter has now.
        if request.lora_request is not None and (hasattr(request, EARLIER) or is_stale(request)):
            _begin_again(request)
        return preempted

    return preempt_request


def _key_again(requests: Iterable[Any], lora_int_id: int) -> None:
    """Hash the blocks of an adapter's requests again whose weights are not those of the adapter any more.

    A request that has KV of the earlier weights keeps the keys of the blocks that are complete. What it computes from
    now on depends on both, so no other request may find it, in no engine.
    """
    for request in requests:
        adapter = request.lora_request
        if adapter is None or adapter.lora_int_id != lora_int_id or not is_stale(request):
            continue
        if request.num_computed_tokens > (activation_of(request.sampling_params) or 0):
            go_on_mixed(request, request.num_computed_tokens)
            _hash_again(request)
        else:
            _begin_again(request)


def _begin_again(request: Any) -> None:
    begin_again(request)
    _hash_again(request)


def _hash_again(request: Any) -> None:
    request.block_hashes.clear()
    request.update_block_hashes()
    setattr(request, HASHED_AGAIN, True)
