"""The seams of vLLM that aLoRA needs, one file each. Every patch is idempotent and checks its seam first."""

from __future__ import annotations

from vllm_alora.patches import (
    admission,
    beam_search,
    block_hash,
    cpu_lora,
    front_end,
    kernel_metadata,
    kv_event_producers,
    kv_events,
    metrics,
    peft_config,
    reload,
    runner_v1,
    runner_v2,
    served_models,
    slots,
    worker_lora,
)

_PATCHES = (
    peft_config,
    worker_lora,
    slots,
    front_end,
    beam_search,
    served_models,
    admission,
    block_hash,
    reload,
    kv_events,
    kv_event_producers,
    runner_v1,
    runner_v2,
    kernel_metadata,
    metrics,
    cpu_lora,
)


def apply_all() -> None:
    """Apply every patch; see :func:`vllm_alora.register`."""
    for patch in _PATCHES:
        patch.apply()
