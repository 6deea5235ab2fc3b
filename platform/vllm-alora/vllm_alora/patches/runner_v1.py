"""Token-level adapters in Model Runner V1 (``vllm/v1/worker/gpu_input_batch.py``; CPUs and older GPUs).

vLLM's LoRA kernels take one adapter id a token already. V1 repeats a request's id over all its scheduled tokens; here
the tokens before the activation point get id 0, no adapter. No layer or kernel changes.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from vllm_alora.activation import activation_of
from vllm_alora.patches.seam import replace

_PENDING = "_alora_pending"


def apply() -> None:
    """Wrap ``InputBatch.add_request``, ``remove_request`` and ``make_lora_inputs``."""
    from vllm.v1.worker.gpu_input_batch import InputBatch

    replace(InputBatch, "add_request", _wrap_add, "request")
    replace(InputBatch, "remove_request", _wrap_remove, "req_id")
    replace(InputBatch, "make_lora_inputs", _wrap_make, "num_scheduled_tokens", "num_sampled_tokens")


def _pending(batch: Any) -> dict[str, int]:
    """Activation points of the batch's aLoRA requests that have not passed theirs, by request id."""
    pending: dict[str, int] = batch.__dict__.setdefault(_PENDING, {})
    return pending


def _wrap_add(original: Any) -> Any:
    @functools.wraps(original)
    def add_request(self: Any, request: Any) -> int:
        # A preempted request comes through here again with its first positions to compute anew.
        activation = activation_of(request.sampling_params)
        if activation is not None:
            _pending(self)[request.req_id] = activation
        return int(original(self, request))

    return add_request


def _wrap_remove(original: Any) -> Any:
    @functools.wraps(original)
    def remove_request(self: Any, req_id: str) -> int | None:
        _pending(self).pop(req_id, None)
        removed: int | None = original(self, req_id)
        return removed

    return remove_request


def _wrap_make(original: Any) -> Any:
    @functools.wraps(original)
    def make_lora_inputs(
        self: Any, num_scheduled_tokens: np.ndarray, num_sampled_tokens: np.ndarray
    ) -> tuple[tuple[int, ...], tuple[int, ...], set[Any]]:
        pending = _pending(self)
        if not pending:
            return original(self, num_scheduled_tokens, num_sampled_tokens)
        prompt, tokens, active = original(self, num_scheduled_tokens, num_sampled_tokens)
        spans = _masked_spans(self, pending, num_scheduled_tokens)
        return prompt, mask(tokens, spans), active

    return make_lora_inputs


def _masked_spans(batch: Any, pending: dict[str, int], num_scheduled_tokens: np.ndarray) -> list[tuple[int, int]]:
    """Return the [start, end) ranges of this step's tokens that lie before their activation point."""
    ends = np.cumsum(num_scheduled_tokens)
    spans = []
    for req_id, activation in list(pending.items()):
        index = batch.req_id_to_index.get(req_id)
        if index is None:
            continue
        ahead = activation - int(batch.num_computed_tokens_cpu[index])
        if ahead <= 0:
            del pending[req_id]
            continue
        scheduled = int(num_scheduled_tokens[index])
        start = int(ends[index]) - scheduled
        spans.append((start, start + min(ahead, scheduled)))
    return spans


def mask(token_lora_mapping: tuple[int, ...], spans: list[tuple[int, int]]) -> tuple[int, ...]:
    """Return the mapping with id 0 (no adapter) in each of ``spans``."""
    if not spans:
        return token_lora_mapping
    ids = np.asarray(token_lora_mapping)
    for start, end in spans:
        ids[start:end] = 0
    return tuple(ids)
