"""Let vLLM load PEFT aLoRA adapters, and refuse those that it would serve wrongly (``vllm/lora/peft_helper.py``).

vLLM 0.32 and later refuse all aLoRA adapters; earlier versions drop the invocation tokens and load them as plain LoRA
adapters.
"""

from __future__ import annotations

import functools
import re
from dataclasses import fields
from typing import Any

from vllm_alora.adapter_config import FIELD, invocation_of
from vllm_alora.patches.seam import mark, replace
from vllm_alora.patches.worker_lora import is_loaded_from_memory, note_invocation

_REFUSAL = "vLLM does not support Activated LoRA (aLoRA)."
_IGNORED = "_alora_ignored"
_MEANINGFUL = ("rank_pattern", "alpha_pattern", "lora_bias", "layer_replication", "use_bdlora", "use_qalora")
"""What changes an adapter's weights and is dropped unread by versions that drop the invocation tokens too."""
_UNMASKED = {
    "lm_head": "vLLM applies it to whole requests",
    "embed_tokens": "PEFT's aLoRA changes linears only",
}
"""Modules that cannot be masked as PEFT would, and why."""


def apply() -> None:
    """Drop vLLM's refusal of ``alora_invocation_tokens``; refuse only what cannot be exact."""
    from vllm.lora.peft_helper import PEFTHelper

    is_read = FIELD in {field.name for field in fields(PEFTHelper)}
    replace(PEFTHelper, "_validate_features", _wrap)
    replace(PEFTHelper, "from_dict", lambda original: classmethod(_wrap_from_dict(original, is_read)), "config_dict")


def _wrap(original: Any) -> Any:
    @functools.wraps(original)
    def validate_features(self: Any) -> list[str]:
        errors = [error for error in original(self) if error != _REFUSAL]
        return errors + _alora_errors(self) if getattr(self, FIELD, None) else errors

    return validate_features


def _wrap_from_dict(original: Any, is_read: bool) -> Any:
    """Look at the whole configuration; keep the invocation tokens where the class has no field for them."""

    @functools.wraps(original.__func__)
    def from_dict(cls: Any, config_dict: dict[str, Any]) -> Any:
        invocation = invocation_of(config_dict)
        note_invocation(invocation)
        helper = original.__func__(cls, config_dict)
        if not is_read:
            setattr(helper, FIELD, None if invocation is None else list(invocation))
            setattr(helper, _IGNORED, [name for name in _MEANINGFUL if config_dict.get(name)])
        return helper

    return mark(from_dict)


def _alora_errors(config: Any) -> list[str]:
    errors = [f"This vLLM ignores {name!r} of an adapter; 0.32 reads it." for name in getattr(config, _IGNORED, ())]
    if is_loaded_from_memory():
        errors.append("An aLoRA adapter must be loaded from files: its adapter_config.json names its invocation.")
    if not config.target_modules:
        return [*errors, f"An aLoRA adapter needs target_modules; they are {config.target_modules!r}."]
    return errors + [
        f"An aLoRA adapter cannot target {name!r} (target_modules={config.target_modules!r}): {reason}. "
        "Accepted are the attention and MLP projections."
        for name, reason in _UNMASKED.items()
        if _is_target(name, config.target_modules)
    ]


def _is_target(name: str, targets: list[str] | str) -> bool:
    """Say whether a module is adapted, by the rule of ``peft.tuners.tuners_utils.check_target_module_exists``."""
    if isinstance(targets, str):
        return any(re.fullmatch(targets, path) is not None for path in (name, f"model.{name}"))
    return any(target.split(".")[-1] == name for target in targets)
