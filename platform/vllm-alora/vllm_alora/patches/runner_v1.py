"""Token-level adapters in Model Runner V1 (``vllm/v1/worker/gpu_input_batch.py``; CPUs and older GPUs).

vLLM's LoRA kernels take one adapter id a token already. V1 repeats a request's id over all its scheduled tokens; here
the tokens before the activation point get id 0, no adapter. No layer or kernel changes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
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
    """Activation points of the batch's aLoRA requests, by request id."""
    pending: dict[str, int] = batch.__dict__.setdefault(_PENDING, {})
    return pending


def _wrap_add(original: Any) -> Any:
    @functools.wraps(original)
    def add_request(self: Any, request: Any) -> int:
        # A preempted request comes through here again with its first positions to compute again.
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
        req_ids = self.req_ids[: len(num_scheduled_tokens)]
        computed = self.num_computed_tokens_cpu[: len(num_scheduled_tokens)]
        return prompt, mask(tokens, masked_spans(pending, req_ids, computed, num_scheduled_tokens)), active

    return make_lora_inputs


def masked_spans(
    pending: dict[str, int], req_ids: Sequence[str], computed: np.ndarray, num_scheduled_tokens: np.ndarray
) -> list[tuple[int, int]]:
    """Return the [start, end) ranges of this step's tokens that lie before their activation point.

    A request that is past its point stays pending: a failed load of KV blocks may set it back. Positions are exact in
    prefill; while a request decodes they may be ahead of the truth (async scheduling), which changes nothing.

    Args:
        pending: activation points by request id.
        req_ids: the step's requests, in the order of their tokens.
        computed: how many tokens of each were computed before, shape [requests].
        num_scheduled_tokens: how many of each are computed now, shape [requests].
    """
    activations = np.fromiter((pending.get(req_id, 0) for req_id in req_ids), np.int64, len(req_ids))
    ahead = np.minimum(activations - computed, num_scheduled_tokens)
    rows = np.flatnonzero(ahead > 0)
    if not rows.size:
        return []
    starts = np.cumsum(num_scheduled_tokens) - num_scheduled_tokens
    begin = starts[rows]
    return list(zip(begin.tolist(), (begin + ahead[rows]).tolist(), strict=True))


def mask(token_lora_mapping: tuple[int, ...], spans: list[tuple[int, int]]) -> tuple[int, ...]:
    """Return the mapping with id 0 (no adapter) in each of ``spans``."""
    if not spans:
        return token_lora_mapping
    ids = list(token_lora_mapping)
    for start, end in spans:
        ids[start:end] = [0] * (end - start)
    return tuple(ids)
