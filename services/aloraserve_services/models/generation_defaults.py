"""What a model's own files say of requests: how many tokens it has, and what a request means that leaves fields out."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from aloraserve.errors import SettingsError
from aloraserve.wire.sampling import NEUTRAL, SamplingDefaults

GenerationSource = Literal["auto", "vllm"]
_NAMES = {field.name: field.name for field in fields(SamplingDefaults)} | {"max_tokens": "max_new_tokens"}
"""Ours, and those of ``generation_config.json``; vLLM takes the same (``ModelConfig.get_diff_sampling_param``)."""
_ACCEPTED: dict[str, tuple[float, float]] = {
    "max_tokens": (1, math.inf),
    "temperature": (0, 2),
    "top_p": (math.ulp(0), 1),
    "top_k": (-1, math.inf),
    "min_p": (0, 1),
    "repetition_penalty": (math.ulp(0), math.inf),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
}


def embedding_count(model_path: Path) -> int | None:
    """Return how many tokens a model has an embedding of, None if its files do not say."""
    try:
        config = json.loads((model_path / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    size = config.get("text_config", config).get("vocab_size")
    return size if isinstance(size, int) and size > 0 else None


def sampling_defaults(model_path: Path, source: GenerationSource) -> SamplingDefaults:
    """Return the defaults of a model.

    Args:
        model_path: its folder.
        source: "auto" for its ``generation_config.json``, "vllm" for vLLM's own defaults, whatever that has.

    Raises:
        SettingsError: it has a value that no request may have.
    """
    if source == "vllm":
        return NEUTRAL
    given = _generation_config(model_path)
    found = {ours: given[theirs] for ours, theirs in _NAMES.items() if given.get(theirs) is not None}
    for name, value in found.items():
        _check(name, value, model_path)
    return SamplingDefaults(**found)


def _generation_config(model_path: Path) -> dict[str, Any]:
    """Return what differs from transformers' defaults; of a model without the file, what its configuration has."""
    from transformers import AutoConfig, GenerationConfig

    try:
        return dict(GenerationConfig.from_pretrained(str(model_path), local_files_only=True).to_diff_dict())
    except OSError:
        pass
    try:
        config = AutoConfig.from_pretrained(str(model_path), local_files_only=True)
    except (OSError, ValueError):
        return {}
    return dict(GenerationConfig.from_model_config(config).to_diff_dict())


def _check(name: str, value: Any, model_path: Path) -> None:
    least, most = _ACCEPTED[name]
    is_number = isinstance(value, int if isinstance(getattr(NEUTRAL, name), int) else int | float)
    if not is_number or isinstance(value, bool) or not least <= value <= most:
        raise SettingsError(
            f"{model_path / 'generation_config.json'} has {_NAMES[name]} {str(value)[:40]}, which no request may have; "
            "correct it, or set generation_config: vllm"
        )
