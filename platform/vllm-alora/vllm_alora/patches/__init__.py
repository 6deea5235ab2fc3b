"""The seams of vLLM that aLoRA needs, one file each. Every patch is idempotent and checks its seam first."""

from __future__ import annotations

from vllm_alora.patches import block_hash, cpu_lora, front_end, kv_events, peft_config, runner_v1, runner_v2


def apply_all() -> None:
    """Apply every patch; see :func:`vllm_alora.register`."""
    for patch in (peft_config, front_end, block_hash, kv_events, runner_v1, runner_v2, cpu_lora):
        patch.apply()
