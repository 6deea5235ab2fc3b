"""Whatever the check accepts, stock PEFT and vLLM load, and every tensor acts."""

from __future__ import annotations

import copy
import itertools
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from safetensors.numpy import load_file
from support.adapter_variants import Variant, variants

from aloraserve.adapters import AdapterFacts, BaseShape, check_adapter

pytestmark = [pytest.mark.engine, pytest.mark.untimed, pytest.mark.timeout(600)]

MAX_RANK = 8
CONFIG: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}
BASE = BaseShape.from_config(CONFIG)
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_PLUGINS": "alora",
    "OMP_NUM_THREADS": "1",
}
HARMLESS = (
    "specified but will be ignored",
    "Using default EVA config",
    "Unexpected keyword arguments",
    "is currently only supported for CAUSAL_LM",
    "Runtime configurations are only valid at runtime",
    "no tied modules were found",
    "no modules were excluded",
)
"""PEFT's warnings of options that change nothing; that a tensor is missing is an error here."""
PROPERTY = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow]
)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random Llama."""
    from transformers import LlamaConfig, LlamaForCausalLM

    path = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(LlamaConfig(**CONFIG)).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def engine(model_path: Path) -> Iterator[Any]:
    """vLLM's own worker for adapters, of a real engine in this process."""
    with patch.dict(os.environ, ENVIRONMENT), warnings.catch_warnings():
        # vLLM's and torch's own, on their way up.
        warnings.simplefilter("ignore")
        from vllm import LLM
        from vllm.distributed import cleanup_dist_env_and_memory

        llm = LLM(
            str(model_path),
            skip_tokenizer_init=True,
            dtype="float32",
            enforce_eager=True,
            max_model_len=64,
            max_num_seqs=2,
            block_size=32,
            enable_lora=True,
            max_loras=1,
            max_lora_rank=MAX_RANK,
        )
        yield llm.llm_engine.model_executor.driver_worker.worker.model_runner.lora_manager
        llm.llm_engine.engine_core.shutdown()
        # Another engine may start in this process.
        cleanup_dist_env_and_memory()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapters") / "adapter"


def accepted(variant: Variant, folder: Path) -> AdapterFacts:
    """Write the adapter and return its facts; an example without meaning if it is refused."""
    report = check_adapter(variant.write(folder), base=BASE, max_rank=MAX_RANK)
    event("accepted" if report.is_accepted else f"refused: {report.problems[0].code}")
    assume(report.is_accepted)
    return report.facts


MOE = {"num_local_experts": 2, "num_experts_per_tok": 1, "shared_intermediate_size": 96}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_state": 16, "mamba_n_groups": 1}


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("Llama", {}),
        ("Granite", {}),
        ("Phi3", {"pad_token_id": 0}),
        ("Qwen3", {}),
        ("GPTNeoX", {}),
        ("GraniteMoeHybrid", {**MOE, **MAMBA, "layer_types": ["mamba", "attention"]}),
    ],
)
def test_a_model_s_own_weights_name_its_linears(tmp_path: Path, architecture: str, changes: dict[str, Any]) -> None:
    import torch
    import transformers

    config = getattr(transformers, f"{architecture}Config")(**{**CONFIG, **changes})
    model = getattr(transformers, f"{architecture}ForCausalLM")(config)
    model.save_pretrained(tmp_path)
    linears = {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name not in ("lm_head", "embed_out")
    }
    assert BaseShape.read(tmp_path).modules == linears


@PROPERTY
@given(variant=variants(BASE))
def test_peft_loads_what_is_accepted_and_misses_nothing(base_model: Any, folder: Path, variant: Variant) -> None:
    from peft import PeftModel

    accepted(variant, folder)
    with warnings.catch_warnings():
        for harmless in HARMLESS:
            warnings.filterwarnings("ignore", message=f".*{harmless}")
        model = PeftModel.from_pretrained(copy.deepcopy(base_model), folder)
    loaded = {name: tensor for name, tensor in model.state_dict().items() if "lora_" in name}
    wanted = load_file(folder / "adapter_model.safetensors")
    assert loaded.keys() == {name.replace(".weight", ".default.weight") for name in wanted}
    for name, tensor in wanted.items():
        np.testing.assert_array_equal(loaded[name.replace(".weight", ".default.weight")].float().numpy(), tensor)


@pytest.fixture(scope="module")
def base_model(model_path: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model_path, local_files_only=True)


numbers = itertools.count(1)


@PROPERTY
@given(variant=variants(BASE))
def test_vllm_loads_what_is_accepted_and_every_tensor_lands(engine: Any, folder: Path, variant: Variant) -> None:
    from vllm.lora.request import LoRARequest

    facts = accepted(variant, folder)
    number = next(numbers)
    request = LoRARequest(f"adapter-{number}", number, str(folder))
    assert engine.add_adapter(request)
    try:
        engine.set_active_adapters({request}, None)
        landed = _landed(engine._adapter_manager, rank=facts.rank or 0)
    finally:
        engine.remove_adapter(number)
    wanted = {
        name.removeprefix("base_model.model.").removesuffix(".weight"): tensor
        for name, tensor in load_file(folder / "adapter_model.safetensors").items()
    }
    assert landed.keys() == {name for name, tensor in wanted.items() if tensor.any()}
    scaling = (facts.alpha or 0) / ((facts.rank or 0) ** (0.5 if variant.config.get("use_rslora") else 1))
    for name, tensor in landed.items():
        expected = wanted[name].astype(np.float32) * (scaling if name.endswith("lora_B") else 1)
        np.testing.assert_allclose(tensor, expected, rtol=1e-6)


def _landed(manager: Any, rank: int) -> dict[str, Any]:
    """Return what is in the only slot, by the names that an adapter's tensors have, without what is all zero."""
    found: dict[str, Any] = {}
    for name, module in manager.modules.items():
        for place, part in enumerate(manager.packed_modules.get(name, [name])):
            if part in BASE.modules:
                inputs, outputs = BASE.modules[part]
                found[f"{part}.lora_A"] = module.lora_a_stacked[place][0, 0, :rank, :inputs].numpy().copy()
                found[f"{part}.lora_B"] = module.lora_b_stacked[place][0, 0, :outputs, :rank].numpy().copy()
    return {name: tensor for name, tensor in found.items() if tensor.any()}
