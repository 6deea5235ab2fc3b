"""Let vLLM load PEFT aLoRA adapters (``vllm/lora/peft_helper.py``)."""

from __future__ import annotations

import functools
from typing import Any

from vllm_alora.patches.seam import replace

_REFUSAL = "vLLM does not support Activated LoRA (aLoRA)."
_UNMASKED_TARGETS = ("embed_tokens", "lm_head")


def apply() -> None:
    """Drop vLLM's refusal of ``alora_invocation_tokens``; refuse only what cannot be exact."""
    from vllm.lora.peft_helper import PEFTHelper

    replace(PEFTHelper, "_validate_features", _wrap)


def _wrap(original: Any) -> Any:
    @functools.wraps(original)
    def validate_features(self: Any) -> list[str]:
        errors = [error for error in original(self) if error != _REFUSAL]
        return errors + _alora_errors(self) if self.alora_invocation_tokens else errors

    return validate_features


def _alora_errors(config: Any) -> list[str]:
    targets = [config.target_modules] if isinstance(config.target_modules, str) else list(config.target_modules)
    # The sampler and the embedding take an adapter a request, not a token, so they cannot be masked.
    return [
        f"An aLoRA adapter cannot target {name!r} (target_modules={config.target_modules!r}): "
        "vLLM applies it to whole requests. Accepted are the attention and MLP projections."
        for name in _UNMASKED_TARGETS
        if any(name in target for target in targets)
    ]
