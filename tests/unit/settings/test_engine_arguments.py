"""Arguments of vLLM that pass through: known ones with known values, and what is refused says why."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from aloraserve.errors import SettingsError
from aloraserve.settings import load_settings
from aloraserve.settings.engine_arguments import ENGINE_ARGUMENTS

GOOD: dict[str, list[Any]] = {
    "attention_backend": ["FLASH_ATTN", "TRITON_ATTN"],
    "cpu_offload_gb": [0, 12.5],
    "disable_cascade_attn": [True],
    "disable_custom_all_reduce": [False],
    "enable_expert_parallel": [True],
    "enforce_eager": [True],
    "fully_sharded_loras": [True],
    "gpu_memory_utilization": [0.9, 1],
    "kv_cache_memory_bytes": [1 << 30],
    "load_format": ["safetensors"],
    "max_num_batched_tokens": [64, 16384],
    "max_parallel_loading_workers": [4],
    "quantization": ["fp8", "compressed-tensors"],
    "safetensors_load_strategy": ["eager"],
    "tensor_parallel_size": [1, 16],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in GOOD.items() for value in values])
def test_an_argument_passes_through_as_it_is(name: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALORASERVE_ENGINE_ARGS", json.dumps({name: value}))
    settings = load_settings()
    assert settings.engine_args == {name: value}
    assert settings.gpus_per_engine == (value if name == "tensor_parallel_size" else 1)


def test_every_argument_that_passes_through_is_tried_here_and_known_to_vllm() -> None:
    assert sorted(GOOD) == sorted(ENGINE_ARGUMENTS)
    found = importlib.util.find_spec("vllm")
    if found is None or not found.submodule_search_locations:
        pytest.skip("vLLM is not installed")
    # Reading it takes a moment, importing it eight seconds.
    source = Path(found.submodule_search_locations[0], "engine", "arg_utils.py").read_text()
    known = set(re.findall(r"^    (\w+): ", source, re.MULTILINE))
    assert set(ENGINE_ARGUMENTS) <= known


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"tensor_parallel_size": 0}, "tensor_parallel_size is '0'; accepted is an integer from 1 to 16"),
        ({"tensor_parallel_size": True}, "tensor_parallel_size is 'True'; accepted is an integer from 1 to 16"),
        ({"tensor_parallel_size": 2.0}, "tensor_parallel_size is '2.0'; accepted is an integer from 1 to 16"),
        ({"gpu_memory_utilization": 1.5}, "gpu_memory_utilization is '1.5'; accepted is a number from 0.05 to 1"),
        ({"gpu_memory_utilization": float("nan")}, "gpu_memory_utilization is 'nan'; accepted is a number"),
        ({"enforce_eager": "yes"}, "enforce_eager is 'yes'; accepted is true or false"),
        ({"load_format": "pt"}, "load_format is 'pt'; accepted is auto, safetensors"),
        ({"quantization": ["fp8"]}, "quantization is \"['fp8']\"; accepted is awq, awq_marlin"),
        ({"attention_backend": "os.system"}, "attention_backend is 'os.system'; accepted is a name in capitals"),
        ({"max_model_len": 4096}, "'max_model_len' has a setting of its own: max_model_len"),
        ({"data_parallel_size": 2}, "'data_parallel_size' has a setting of its own: replicas"),
        ({"kv_cache_dtype": "fp8"}, "'kv_cache_dtype' does not pass through to vLLM; accepted are attention_backend"),
        ({"enable_prefix_caching": False}, "'enable_prefix_caching' does not pass through to vLLM"),
        ({"speculative_config": {}}, "'speculative_config' does not pass through to vLLM"),
        ({"trust_remote_code": True}, "'trust_remote_code' does not pass through to vLLM"),
        ({"worker_cls": "os.system"}, "'worker_cls' does not pass through to vLLM"),
        ({"kv_events_config": {}}, "'kv_events_config' does not pass through to vLLM"),
    ],
)
def test_what_is_not_accepted_is_named(arguments: dict[str, Any], fault: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(engine_args=arguments)
    assert refused.value.message.startswith("flag: engine_args is ")
    assert fault in refused.value.message
