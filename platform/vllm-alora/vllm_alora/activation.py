"""Where an aLoRA adapter starts to change weights, and how that index travels through vLLM.

The activation point is found by token ids: in the front end, so that a client gets a clear error, and again in the
engine core, which every request passes. It travels in ``SamplingParams.extra_args`` under a key that clients cannot
set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

ACTIVATION_KEY = "vllm_alora.activation"
"""Reserved key of ``SamplingParams.extra_args``: index of the first token that the request's adapter changes."""

NEVER = 2**31 - 1
"""Activation point of a request whose adapter never activates (``VLLM_ALORA_ABSENT=base``)."""


def find_activation(token_ids: Sequence[int], invocation_ids: Sequence[int]) -> int | None:
    """Return the index at which the last occurrence of the invocation starts, or None.

    The rule of PEFT's ``peft.tuners.lora.variants.calculate_alora_offsets``: the *last* occurrence counts, and the
    adapter is on from the invocation's first token.

    Args:
        token_ids: the prompt, any length.
        invocation_ids: ``alora_invocation_tokens`` of the adapter, at least one.
    """
    wanted = list(invocation_ids)
    width, first = len(wanted), wanted[0]
    for start in range(len(token_ids) - width, -1, -1):
        if token_ids[start] == first and list(token_ids[start : start + width]) == wanted:
            return start
    return None


def activation_of(sampling_params: Any) -> int | None:
    """Return the activation point of a request, or None for base and plain LoRA requests.

    Workers read it in every step, so a value that is not an index counts as none instead of raising; the engine core
    lets no such value through (:mod:`vllm_alora.decision`).
    """
    extra_args = getattr(sampling_params, "extra_args", None)
    if not extra_args:
        return None
    value = extra_args.get(ACTIVATION_KEY)
    return value if is_index(value) else None


def is_index(value: Any) -> bool:
    """Say whether a value can be an activation point: an integer that is not negative."""
    return type(value) is int and value >= 0
