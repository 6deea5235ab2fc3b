"""Expert layers on a GPU: a step whose tokens are all masked must not get the adapter of the step before.

A mixture of 64 experts, two a token: steps of up to 8 tokens run vLLM's expert LoRA kernels in naive block assignment.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scores import Steps, apart
from test_gpu import GRAPHS, NOISE_LIMIT, gpu_settings
from tiny import VOCABULARY, words, write_tokenizer

pytestmark = [pytest.mark.engine, pytest.mark.gpu, pytest.mark.filterwarnings("default")]

EXPERTS, RANK, HIDDEN, INNER, LAYERS = 64, 16, 128, 64, 2
INVOCATION = [901, 902]


def write_mixture(path: Path) -> Path:
    """Write a random Qwen3-MoE in bf16."""
    import torch
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        moe_intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        num_experts=EXPERTS,
        num_experts_per_tok=2,
        max_position_embeddings=2048,
        initializer_range=0.05,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
    )
    Qwen3MoeForCausalLM(config).to(torch.bfloat16).save_pretrained(path)
    write_tokenizer(path)
    return path


def write_expert_adapter(path: Path) -> Path:
    """Write an aLoRA on every expert's three linears."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(1)
    shapes = {"gate_proj": (HIDDEN, INNER), "up_proj": (HIDDEN, INNER), "down_proj": (INNER, HIDDEN)}
    tensors = {}
    for layer in range(LAYERS):
        for expert in range(EXPERTS):
            for linear, (inputs, outputs) in shapes.items():
                name = f"base_model.model.model.layers.{layer}.mlp.experts.{expert}.{linear}"
                for part, shape in (("A", (RANK, inputs)), ("B", (outputs, RANK))):
                    weight = (torch.randn(shape, generator=generator) * 0.2).bfloat16()
                    tensors[f"{name}.lora_{part}.weight"] = weight
    path.mkdir(parents=True)
    save_file(tensors, path / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "lora_dropout": 0.0,
        "target_modules": list(shapes),
        "bias": "none",
        "alora_invocation_tokens": INVOCATION,
    }
    (path / "adapter_config.json").write_text(json.dumps(config))
    return path


Ask = Callable[[list[int], bool], Steps]


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Generate six tokens with the adapter or without, alone in an engine with CUDA graphs."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU and vLLM's CUDA build")
    root = tmp_path_factory.mktemp("moe")
    model, adapter = write_mixture(root / "model"), write_expert_adapter(root / "adapter")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_USE_V2_MODEL_RUNNER", "1")
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        patch.setenv("VLLM_ALORA_ABSENT", "base")
        yield _asker(model, adapter)


def _asker(model: Path, adapter: Path) -> Ask:
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    settings: dict[str, Any] = {"dtype": "bfloat16", "max_model_len": 512, "kv_cache_memory_bytes": 1 << 28, **GRAPHS}
    # Whole graphs for prefills of a few tokens too: what naive assignment reads is baked into them.
    settings["compilation_config"] = {**GRAPHS["compilation_config"], "cudagraph_mode": "FULL"}
    settings |= gpu_settings()
    llm = LLM(str(model), enable_lora=True, max_loras=2, max_lora_rank=RANK, enable_prefix_caching=False, **settings)
    params = SamplingParams(max_tokens=6, min_tokens=6, temperature=0, logprobs=20, detokenize=False)

    def ask(prompt: list[int], with_adapter: bool) -> Steps:
        lora = LoRARequest("experts", 1, str(adapter)) if with_adapter else None
        (output,) = llm.generate({"prompt_token_ids": prompt}, params, lora_request=lora, use_tqdm=False)
        (choice,) = output.outputs
        steps = [{token: found.logprob for token, found in step.items()} for step in choice.logprobs]
        return Steps(list(choice.token_ids), steps, output.num_cached_tokens or 0)

    return ask


def after_an_active_step(ask: Ask, prompt: list[int]) -> float:
    """Return how far a prompt without the invocation lies from the base model's, right after the adapter decoded."""
    base = ask(prompt, False)
    ask([*words(20, 1), *INVOCATION, 5], True)
    return apart(base, ask(prompt, True))


def test_the_adapter_changes_answers(ask: Ask) -> None:
    """Else a stale id would be no fault to see."""
    prompt = [*words(20, 2), *INVOCATION, 5]
    base, adapted = ask(prompt, False), ask(prompt, True)
    assert base.tokens != adapted.tokens
    assert apart(base, adapted) > 2 * NOISE_LIMIT


@pytest.mark.parametrize("length", [1, 4, 8, 40])
def test_a_masked_step_after_an_adapted_one_is_the_base_models(ask: Ask, length: int) -> None:
    """Prefills of one token to a few, in graphs and naive assignment, and one beyond both."""
    assert after_an_active_step(ask, words(length, 10 + length)) < NOISE_LIMIT


def test_without_the_patch_the_step_before_shows(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """What vLLM's own metadata does in the state that only this plugin makes."""
    from vllm.lora.ops.triton_ops.lora_kernel_metadata import LoRAKernelMeta

    monkeypatch.setattr(LoRAKernelMeta, "prepare_tensors", LoRAKernelMeta.prepare_tensors.__wrapped__)
    assert after_an_active_step(ask, words(1, 11)) > NOISE_LIMIT
