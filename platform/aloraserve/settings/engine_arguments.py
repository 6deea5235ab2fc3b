"""Arguments that pass through to vLLM: the list of those that may, and what is accepted of each.

A list of what is allowed, since most of vLLM's other arguments would break what the platform promises: answers that do
not depend on caches (another KV type, speculation, models changed by overrides), events by which gateways know what is
cached (another scheduler, connectors), or the machine's safety (code from a hub, pickled weights).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

MAX_PARALLEL = 16
"""GPUs that one engine spreads its model over; they are of one machine."""
QUANTIZATIONS = ("awq", "awq_marlin", "bitsandbytes", "compressed-tensors", "fp8", "gptq", "gptq_marlin", "modelopt")
LOAD_FORMATS = ("auto", "safetensors", "fastsafetensors", "runai_streamer", "bitsandbytes", "sharded_state")
_BACKEND = re.compile(r"[A-Z][A-Z0-9_]{1,63}")
_ELSEWHERE = {
    "block_size": "block_tokens",
    "data_parallel_size": "replicas",
    "dtype": "dtype",
    "enable_lora": "adapters_dir",
    "generation_config": "generation_config",
    "max_cpu_loras": "max_loaded_adapters",
    "max_lora_rank": "max_lora_rank",
    "max_loras": "max_loras",
    "max_model_len": "max_model_len",
    "max_num_seqs": "max_num_seqs",
    "model": "model",
    "scheduling_policy": "scheduling_policy",
    "served_model_name": "served_name",
    "stream_interval": "stream_interval",
    "tokenizer": "model",
}
"""Arguments of vLLM that are settings of the platform."""
_Check = tuple[Callable[[Any], bool], str]


def _number(low: float, high: float, *, whole: bool) -> _Check:
    kinds = (int,) if whole else (int, float)

    def fits(value: Any) -> bool:
        return isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high

    return fits, f"{'an integer' if whole else 'a number'} from {low:g} to {high:g}"


def _word(*words: str) -> _Check:
    return lambda value: value in words, ", ".join(words)


_FLAG: _Check = (lambda value: isinstance(value, bool), "true or false")
ENGINE_ARGUMENTS: Mapping[str, _Check] = MappingProxyType(
    {
        "attention_backend": (
            lambda value: isinstance(value, str) and _BACKEND.fullmatch(value) is not None,
            "a name in capitals, such as FLASH_ATTN",
        ),
        "cpu_offload_gb": _number(0, 4096, whole=False),
        "disable_cascade_attn": _FLAG,
        "disable_custom_all_reduce": _FLAG,
        "enable_expert_parallel": _FLAG,
        "enforce_eager": _FLAG,
        "fully_sharded_loras": _FLAG,
        "gpu_memory_utilization": _number(0.05, 1, whole=False),
        "kv_cache_memory_bytes": _number(1 << 20, 1 << 44, whole=True),
        "load_format": _word(*LOAD_FORMATS),
        "max_num_batched_tokens": _number(64, 1 << 20, whole=True),
        "max_parallel_loading_workers": _number(1, 64, whole=True),
        "quantization": _word(*QUANTIZATIONS),
        "safetensors_load_strategy": _word("lazy", "eager", "prefetch"),
        "tensor_parallel_size": _number(1, MAX_PARALLEL, whole=True),
    }
)
"""Names of arguments, and what is accepted of each: a check and its words."""


def check_engine_arguments(arguments: Mapping[str, Any]) -> None:
    """Raise ValueError if an argument does not pass through, or its value is not accepted; names both."""
    for name, value in arguments.items():
        if name not in ENGINE_ARGUMENTS:
            raise ValueError(f"{name[:80]!r} {_refusal(name)}")
        fits, accepted = ENGINE_ARGUMENTS[name]
        if not fits(value):
            raise ValueError(f"{name} is {str(value)[:80]!r}; accepted is {accepted}")


def _refusal(name: str) -> str:
    if name in _ELSEWHERE:
        return f"has a setting of its own: {_ELSEWHERE[name]}"
    return f"does not pass through to vLLM; accepted are {', '.join(sorted(ENGINE_ARGUMENTS))}"
