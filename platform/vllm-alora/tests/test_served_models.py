"""vLLM's own ``OpenAIServingModels`` over an engine that cannot load an adapter: who is at fault decides the status."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cores import config_of, write_files

import vllm_alora


class FailingEngine:
    """Cannot load anything, and reports it as vLLM's client does: an ``Exception`` with words."""

    def __init__(self, vllm_config: Any) -> None:
        self.vllm_config = vllm_config
        self.model_config = vllm_config.model_config
        self.renderer = self.input_processor = None

    async def add_lora(self, lora_request: Any) -> bool:
        raise Exception("Call to add_lora method failed: as it happens")


async def status_of_load(folder: Path, adapter: Path) -> tuple[int, str]:
    """Return the status and message of ``/v1/load_lora_adapter``."""
    from vllm.entrypoints.openai.models.protocol import BaseModelPath
    from vllm.entrypoints.openai.models.serving import OpenAIServingModels
    from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest

    vllm_alora.register()
    engine: Any = FailingEngine(config_of(folder))
    models = OpenAIServingModels(engine_client=engine, base_model_paths=[BaseModelPath("base", str(folder))])
    answer: Any = await models.load_lora_adapter(LoadLoRAAdapterRequest(lora_name="a", lora_path=str(adapter)))
    error: SimpleNamespace = answer.error
    return error.code, error.message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"invocation_string": "certainty"}, "Add alora_invocation_tokens"),
        ({"alora_invocation_tokens": [5], "target_modules": ["q_proj", "lm_head"]}, "cannot target 'lm_head'"),
        ({"r": 64}, "64"),
    ],
    ids=["a legacy configuration", "a module without a mask", "vLLM's own rule"],
)
async def test_a_configuration_at_fault_is_a_400(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    code, message = await status_of_load(tmp_path, write_files(tmp_path / "a", "weights", **changes))
    assert (code, said in message) == (400, True), message


async def test_any_other_error_stays_vllms(tmp_path: Path) -> None:
    """Its configuration is right, or nobody here can read it."""
    for adapter in (write_files(tmp_path / "a", "weights", alora_invocation_tokens=[5]), tmp_path / "elsewhere"):
        assert await status_of_load(tmp_path, adapter) == (500, "Call to add_lora method failed: as it happens")
