"""Whether a model, its context and its KV cache fit what engines and this machine have: asked before one is started.

An engine finds out by itself, after a minute, and Ray would start it again and again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from aloraserve.errors import SettingsError
from aloraserve.settings import Settings
from aloraserve_services.models.hardware import Dtype, is_cpu_engine

_BYTES = {"bfloat16": 2, "float32": 4}
_GIB = 1 << 30
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def check_sizes(settings: Settings, model_path: Path, dtype: Dtype) -> None:
    """Refuse sizes that no engine could have; what cannot be said for sure is left to the engine.

    Args:
        settings: of the fleet.
        model_path: folder of its model.
        dtype: of weights and KV cache.

    Raises:
        SettingsError: names the setting, the limit, and what is needed.
    """
    config = _config(model_path)
    _check_context(settings, config)
    if is_cpu_engine():
        _check_cache(settings, config, dtype)
        _check_memory(settings, model_path)


def _config(model_path: Path) -> dict[str, Any]:
    try:
        config = json.loads((model_path / "config.json").read_bytes())
    except (OSError, ValueError):
        return {}
    found = config.get("text_config", config) if isinstance(config, dict) else {}
    return found if isinstance(found, dict) else {}


def _check_context(settings: Settings, config: Mapping[str, Any]) -> None:
    limit = config.get("max_position_embeddings")
    if not isinstance(limit, int) or _is_stretched(config) or settings.max_model_len <= limit:
        return
    raise SettingsError(f"max_model_len is {settings.max_model_len}; the model's context has {limit} tokens at most")


def _is_stretched(config: Mapping[str, Any]) -> bool:
    """Return whether positions are scaled to a longer context than the configuration's."""
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    return not isinstance(rope, dict) or any(
        isinstance(each, dict) and "factor" in each for each in (rope, *rope.values())
    )


def token_bytes(config: Mapping[str, Any], dtype: Dtype) -> int | None:
    """Return the bytes of KV cache that a token takes in a plain transformer, None for any other model."""
    if config.get("kv_lora_rank") or config.get("sliding_window") or config.get("layer_types"):
        return None
    layers, heads = config.get("num_hidden_layers"), config.get("num_attention_heads")
    kv_heads = config.get("num_key_value_heads") or heads
    size = config.get("head_dim") or (config.get("hidden_size", 0) // heads if isinstance(heads, int) and heads else 0)
    if not all(isinstance(number, int) and number > 0 for number in (layers, kv_heads, size)):
        return None
    return 2 * layers * kv_heads * size * _BYTES[dtype]  # type: ignore[operator]


def _check_cache(settings: Settings, config: Mapping[str, Any], dtype: Dtype) -> None:
    per_token = token_bytes(config, dtype)
    if per_token is None:
        return
    blocks = -(-settings.max_model_len // settings.block_tokens)
    needed = blocks * settings.block_tokens * per_token / _GIB
    if settings.kv_cache_gib < needed:
        raise SettingsError(
            f"kv_cache_gib is {settings.kv_cache_gib:g}; one call of max_model_len {settings.max_model_len} takes "
            f"{needed + 0.0005:.3f}: give more, or set a smaller max_model_len"
        )


def _check_memory(settings: Settings, model_path: Path) -> None:
    weights = sum(path.stat().st_size for path in model_path.glob("*.safetensors")) / _GIB
    needed, there = settings.replicas * (settings.kv_cache_gib + weights), machine_memory() / _GIB
    if needed > there:
        raise SettingsError(
            f"replicas is {settings.replicas} with kv_cache_gib {settings.kv_cache_gib:g} and {weights:.1f} GiB of "
            f"weights each: {needed:.1f} GiB, and this machine has {there:.1f} GiB of memory"
        )


def machine_memory() -> int:
    """Return the bytes of memory that this process may have: the machine's, or its control group's limit."""
    limits = [psutil.virtual_memory().total]
    for path in _CGROUP_LIMITS:
        try:
            limits.append(int(Path(path).read_text()))
        except (OSError, ValueError):
            # None there, or "max".
            continue
    return min(limits)
