"""Token-level adapters in Model Runner V2 (``vllm/v1/worker/gpu/``), the default on CUDA.

``LoraState`` sees neither positions nor sampling parameters, so the runner's ``add_requests`` notes each new
request's activation point, and the runner's request states give the positions. A preempted request leaves the runner
and comes back as a new one; a streaming update replaces its request in the same way.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

import numpy as np

from vllm_alora.activation import activation_of
from vllm_alora.patches.runner_v1 import mask, masked_spans
from vllm_alora.patches.seam import replace

RUNNER_MODULE = "vllm.v1.worker.gpu.model_runner"
_PENDING = "_alora_pending"
_STATES = "_alora_request_states"
STATES_ATTRIBUTE = "num_computed_tokens_np"
"""Attribute of ``RequestState``: how many tokens of each request were computed."""


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
        watch(self, None, {})
        runner = importlib.import_module(RUNNER_MODULE).GPUModelRunner
        replace(runner, "add_requests", _wrap_add_requests, "scheduler_output")

    return init


def watch(state: Any, request_states: Any, pending: dict[str, int]) -> None:
    """Let a ``LoraState`` see the positions of the runner's requests and their activation points."""
    setattr(state, _STATES, request_states)
    setattr(state, _PENDING, pending)


def _wrap_add_requests(original: Any) -> Any:
    @functools.wraps(original)
    def add_requests(self: Any, scheduler_output: Any) -> None:
        original(self, scheduler_output)
        pending = getattr(self.lora_state, _PENDING)
        for new in scheduler_output.scheduled_new_reqs:
            activation = activation_of(new.sampling_params)
            if activation is not None:
                pending[new.req_id] = activation
                watch(self.lora_state, self.req_states, pending)

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
        if pending:
            computed = getattr(getattr(self, _STATES), STATES_ATTRIBUTE)[idx_mapping]
            tokens = mask(tokens, masked_spans(pending, req_ids, computed, num_scheduled_tokens))
        return prompt, tokens, active

    return make_lora_inputs
