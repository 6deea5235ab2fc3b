"""Token-level adapters in Model Runner V2 (``vllm/v1/worker/gpu/``), the default on CUDA.

``LoraState`` sees neither positions nor sampling parameters, so the runner's ``add_requests`` notes each new
request's activation point, and the runner's request states give the positions.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import numpy as np

from vllm_alora.activation import activation_of
from vllm_alora.patches.runner_v1 import mask
from vllm_alora.patches.seam import replace

RUNNER_MODULE = "vllm.v1.worker.gpu.model_runner"
_PENDING = "_alora_pending"
_STATES = "_alora_request_states"


def apply() -> None:
    """Wrap ``LoraState``; the runner itself is wrapped when it makes its ``LoraState``.

    Importing the runner here would cost every process seconds, and only its workers need it.
    """
    from vllm.v1.worker.gpu.lora_utils import LoraState

    replace(LoraState, "__init__", _wrap_init)
    replace(LoraState, "remove_request", _wrap_remove, "req_id")
    replace(LoraState, "make_lora_inputs", _wrap_make, "req_ids", "idx_mapping", "num_scheduled_tokens")


def _wrap_init(original: Any) -> Any:
    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        setattr(self, _PENDING, {})
        setattr(self, _STATES, None)
        module = sys.modules.get(RUNNER_MODULE)
        if module is not None:
            replace(module.GPUModelRunner, "add_requests", _wrap_add_requests, "scheduler_output")

    return init


def _wrap_add_requests(original: Any) -> Any:
    @functools.wraps(original)
    def add_requests(self: Any, scheduler_output: Any) -> None:
        original(self, scheduler_output)
        setattr(self.lora_state, _STATES, self.req_states)
        pending = getattr(self.lora_state, _PENDING)
        for new in scheduler_output.scheduled_new_reqs:
            activation = activation_of(new.sampling_params)
            if activation is not None:
                pending[new.req_id] = activation

    return add_requests


def _wrap_remove(original: Any) -> Any:
    @functools.wraps(original)
    def remove_request(self: Any, req_id: str) -> None:
        getattr(self, _PENDING).pop(req_id, None)
        original(self, req_id)

    return remove_request


def _wrap_make(original: Any) -> Any:
    @functools.wraps(original)
    def make_lora_inputs(
        self: Any, req_ids: list[str], idx_mapping: np.ndarray, num_scheduled_tokens: np.ndarray
    ) -> tuple[tuple[int, ...], tuple[int, ...], set[Any]]:
        prompt, tokens, active = original(self, req_ids, idx_mapping, num_scheduled_tokens)
        pending = getattr(self, _PENDING)
        if not pending:
            return prompt, tokens, active
        computed = getattr(self, _STATES).num_computed_tokens_np[idx_mapping]
        ends = np.cumsum(num_scheduled_tokens)
        spans = []
        for row, req_id in enumerate(req_ids):
            # A request that is past its activation point stays listed: under async scheduling the position is
            # optimistic while it decodes, and it is exact in prefill.
            ahead = pending.get(req_id, 0) - int(computed[row])
            if ahead > 0:
                scheduled = int(num_scheduled_tokens[row])
                start = int(ends[row]) - scheduled
                spans.append((start, start + min(ahead, scheduled)))
        return prompt, mask(tokens, spans), active

    return make_lora_inputs
