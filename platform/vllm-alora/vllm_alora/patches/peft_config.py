"""Let vLLM load PEFT aLoRA adapters (``vllm/lora/peft_helper.py``).

vLLM 0.32 and later refuse them; earlier versions drop the invocation tokens and load them as plain LoRA adapters.
"""

from __future__ import annotations

import functools
from dataclasses import fields
from typing import Any

from vllm_alora.patches.seam import mark, replace

_REFUSAL = "vLLM does not support Activated LoRA (aLoRA)."
_FIELD = "alora_invocation_tokens"
_IGNORED = "_alora_ignored"
_MEANINGFUL = ("rank_pattern", "alpha_pattern", "lora_bias", "layer_replication", "use_bdlora", "use_qalora")
"""What changes an adapter's weights and is dropped unread by versions that drop the invocation tokens too."""
_UNMASKED_TARGETS = ("embed_tokens", "lm_head")


def apply() -> None:
    """Drop vLLM's refusal of ``alora_invocation_tokens``; refuse only what cannot be exact."""
    from vllm.lora.peft_helper import PEFTHelper

    replace(PEFTHelper, "_validate_features", _wrap)
    if _FIELD not in {field.name for field in fields(PEFTHelper)}:
        replace(PEFTHelper, "from_dict", lambda original: classmethod(_wrap_from_dict(original)), "config_dict")


def _wrap(original: Any) -> Any:
    @functools.wraps(original)
    def validate_features(self: Any) -> list[str]:
        errors = [error for error in original(self) if error != _REFUSAL]
        return errors + _alora_errors(self) if getattr(self, _FIELD, None) else errors

    return validate_features


def _wrap_from_dict(original: Any) -> Any:
    """Keep the invocation tokens where the class has no field for them."""

    @functools.wraps(original.__func__)
    def from_dict(cls: Any, config_dict: dict[str, Any]) -> Any:
        helper = original.__func__(cls, config_dict)
        setattr(helper, _FIELD, config_dict.get(_FIELD))
        setattr(helper, _IGNORED, [name for name in _MEANINGFUL if config_dict.get(name)])
        return helper

    return mark(from_dict)


def _alora_errors(config: Any) -> list[str]:
    ignored = [f"This vLLM ignores {name!r} of an adapter; 0.32 reads it." for name in getattr(config, _IGNORED, ())]
    targets = [config.target_modules] if isinstance(config.target_modules, str) else list(config.target_modules)
    # The sampler and the embedding take an adapter a request, not a token, so they cannot be masked.
    return ignored + [
        f"An aLoRA adapter cannot target {name!r} (target_modules={config.target_modules!r}): "
        "vLLM applies it to whole requests. Accepted are the attention and MLP projections."
        for name in _UNMASKED_TARGETS
        if any(name in target for target in targets)
    ]
