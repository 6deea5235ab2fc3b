"""The kind of an adapter, by its ``adapter_config.json``: plain LoRA, aLoRA, or one that cannot be served."""

from __future__ import annotations

import json
from typing import Any

FIELD = "alora_invocation_tokens"
LEGACY_TEXTS = ("invocation_string", "alora_invocation_string")
"""Fields of aLoRA adapters from before PEFT's own support; each gives the invocation as text."""
SHADOW_RESIDUAL = ("cross_stream", "last_context_token")
"""Fields of Shadow-Residual adapters, which read another stream of activations than the model's own."""
Invocation = tuple[int, ...]


class AdapterConfigError(ValueError):
    """Raised when a configuration is no valid one, or of an adapter that would be served wrongly."""


def invocation_of(config: Any) -> Invocation | None:
    """Return the invocation tokens of an adapter, or None for a plain LoRA.

    Args:
        config: the content of ``adapter_config.json``.

    Raises:
        AdapterConfigError: the adapter would be served wrongly; says which field is at fault and what is accepted.
    """
    if not isinstance(config, dict):
        raise AdapterConfigError(f"adapter_config.json holds {_short(config)}; expected an object")
    tokens = config.get(FIELD)
    if tokens is None:
        _refuse_other_kinds(config)
        return None
    if not isinstance(tokens, list) or not tokens or not all(type(token) is int and token >= 0 for token in tokens):
        raise AdapterConfigError(
            f"{FIELD} is {_short(tokens)}; accepted are a list of at least one token id, or null for a plain LoRA"
        )
    return tuple(tokens)


def _refuse_other_kinds(config: dict[str, Any]) -> None:
    for field in LEGACY_TEXTS:
        if config.get(field) is not None:
            raise AdapterConfigError(
                f"{field} is {_short(config[field])} and {FIELD} is missing: an aLoRA adapter from before PEFT's own "
                f"support. Add {FIELD}, the token ids of that text in the base model's tokenizer."
            )
    peft_type = config.get("peft_type")
    is_alora = isinstance(peft_type, str) and peft_type.upper() == "ALORA"
    for field, is_set in (("use_alora", bool(config.get("use_alora"))), ("peft_type", is_alora)):
        if is_set:
            raise AdapterConfigError(
                f"{field} is {_short(config[field])} and {FIELD} is missing. Add {FIELD}, the token ids of the "
                "adapter's invocation in the base model's tokenizer."
            )
    for field in SHADOW_RESIDUAL:
        if config.get(field):
            raise AdapterConfigError(
                f"{field} is {_short(config[field])}: a Shadow-Residual adapter is neither a LoRA nor an aLoRA. "
                f"Accepted are PEFT adapters with {FIELD} (aLoRA) or without (LoRA)."
            )


def _short(value: Any) -> str:
    text = json.dumps(value, default=repr)
    return text if len(text) <= 80 else f"{text[:77]}..."
