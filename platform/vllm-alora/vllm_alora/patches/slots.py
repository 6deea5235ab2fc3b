"""Slots of running adapters stay as they are (``vllm/lora/worker_manager.py``, ``vllm/lora/model_manager.py``).

vLLM copies an adapter into a slot as soon as it is loaded, over the one used longest ago, which may be that of a
request that runs: it is copied back in the next step, and that may take another running one's slot. Here an adapter
that is loaded between steps takes a free slot or none, and a step first notes its adapters in slots as used.
"""

from __future__ import annotations

import functools
from contextvars import ContextVar
from typing import Any

from vllm_alora.patches.seam import replace, require_state

_IS_STEP: ContextVar[bool] = ContextVar("vllm_alora_is_step", default=False)
_IS_LOAD: ContextVar[bool] = ContextVar("vllm_alora_is_load", default=False)


def apply() -> None:
    """Wrap ``LRUCacheWorkerLoRAManager._apply_adapters`` and ``LRUCacheLoRAModelManager.activate_adapter``."""
    from vllm.lora.model_manager import LoRAModelManager, LRUCacheLoRAModelManager
    from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager

    require_state(LoRAModelManager, "_active_adapters", "lora_index_to_id")
    replace(LRUCacheWorkerLoRAManager, "_apply_adapters", _wrap_apply, "lora_requests")
    replace(LRUCacheLoRAModelManager, "activate_adapter", _wrap_activate, "lora_id")


def loading_between_steps() -> Any:
    """Return a token of :func:`loaded`, if an adapter is being loaded and no step runs."""
    return _IS_LOAD.set(not _IS_STEP.get())


def loaded(token: Any) -> None:
    """Note the end of a load."""
    _IS_LOAD.reset(token)


def _wrap_apply(original: Any) -> Any:
    @functools.wraps(original)
    def apply_adapters(self: Any, lora_requests: Any) -> Any:
        active = self._adapter_manager._active_adapters
        for lora_request in lora_requests:
            if lora_request and lora_request.lora_int_id in active:
                active.touch(lora_request.lora_int_id)
        token = _IS_STEP.set(True)
        try:
            return original(self, lora_requests)
        finally:
            _IS_STEP.reset(token)

    return apply_adapters


def _wrap_activate(original: Any) -> Any:
    @functools.wraps(original)
    def activate_adapter(self: Any, lora_id: int) -> Any:
        if _IS_LOAD.get() and lora_id not in self._active_adapters and None not in self.lora_index_to_id:
            return False
        return original(self, lora_id)

    return activate_adapter
