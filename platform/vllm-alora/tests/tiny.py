"""What engine tests share: small random models, adapters with a large effect, PEFT as the reference, real engines."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import pytest

VOCABULARY = 1024
ADAPTERS: dict[str, tuple[int, tuple[int, ...] | None]] = {
    "certainty": (8, (901, 902)),
    "safety": (16, (911, 912, 913)),
    "style": (8, None),
    "summary": (16, None),
}
"""Name -> rank and invocation tokens (None for a plain LoRA). As many as the engine has slots."""

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ALORA_SHARED_PREFIXES": "1",
}


def write_model(path: Path, architecture: str, dtype: str = "float32", **changes: Any) -> Path:
    """Write a small random model: "llama", "qwen3", "granite" or "gemma3", with changes to its configuration."""
    import torch
    import transformers

    config_class, model_class, own = {
        "llama": ("LlamaConfig", "LlamaForCausalLM", {}),
        "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {}),
        "granite": (
            "GraniteConfig",
            "GraniteForCausalLM",
            {
                "embedding_multiplier": 6.0,
                "attention_multiplier": 0.1,
                "residual_multiplier": 0.8,
                "logits_scaling": 2.0,
            },
        ),
        # Every second layer sees the last 48 tokens only: a block and a half.
        "gemma3": (
            "Gemma3TextConfig",
            "Gemma3ForCausalLM",
            {
                "sliding_window": 48,
                "layer_types": ["sliding_attention", "full_attention"] * 2,
                "query_pre_attn_scalar": 64,
            },
        ),
    }[architecture]
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "max_position_embeddings": 2048,
        "initializer_range": 0.15,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    config = getattr(transformers, config_class)(**{**settings, **own, **changes})
    getattr(transformers, model_class)(config).to(getattr(torch, dtype)).save_pretrained(path)
    write_tokenizer(path)
    return path


def write_tokenizer(path: Path) -> None:
    """Write a word-level tokenizer beside a model: token 7 is "w7"."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w2"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, bos_token="w0", eos_token="w1").save_pretrained(path)


def write_adapters(root: Path, model_path: Path, *, spread: float = 0.05) -> Path:
    """Write :data:`ADAPTERS` for a model."""
    for seed, (name, (rank, invocation)) in enumerate(ADAPTERS.items()):
        write_adapter(root / name, model_path, rank=rank, invocation=invocation, seed=seed, spread=spread)
    return root


def write_adapter(
    path: Path,
    model_path: Path,
    *,
    rank: int,
    invocation: Sequence[int] | None,
    seed: int,
    spread: float = 0.05,
    kind: str = "AutoModelForCausalLM",
    **changes: Any,
) -> None:
    """Write a PEFT adapter with random weights of that standard deviation on all seven linears.

    Args:
        path: of the adapter's folder.
        model_path: of the model.
        rank: of all its matrices.
        invocation: None for a plain LoRA.
        seed: of the weights.
        spread: their standard deviation.
        kind: class of transformers that loads the model.
        changes: to its configuration.
    """
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model

    settings: dict[str, Any] = {
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        "alora_invocation_tokens": list(invocation) if invocation else None,
        "task_type": "CAUSAL_LM",
    }
    base = getattr(transformers, kind).from_pretrained(model_path)
    model = get_peft_model(base, LoraConfig(**{**settings, **changes}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                # Rounded, so that an engine in bf16 computes with the same weights as the reference.
                weight.copy_((torch.randn(weight.shape, generator=generator) * spread).bfloat16())
    model.save_pretrained(path)


@dataclass(frozen=True)
class Answer:
    """A greedy continuation: token ids and the log-probability of each."""

    tokens: list[int]
    logprobs: list[float]
    cached_tokens: int = 0


def with_adapters(auto: Any, model_path: Path, adapters_path: Path, names: Sequence[str]) -> Any:
    """Return the base model, which the class ``auto`` of transformers reads, with all adapters, by PEFT, in float32."""
    import torch
    from peft import PeftModel

    base = auto.from_pretrained(model_path, dtype=torch.float32)
    first, *others = names
    model = PeftModel.from_pretrained(base, adapters_path / first, adapter_name=first)
    for name in others:
        model.load_adapter(adapters_path / name, adapter_name=name)
    return model.eval()


def answering_as(model: Any, adapter: str | None) -> AbstractContextManager[Any]:
    """Return a context in which the model answers with an adapter, None as the base model."""
    if adapter is None:
        return cast("AbstractContextManager[Any]", model.disable_adapter())
    model.set_adapter(adapter)
    return nullcontext()


@dataclass
class Reference:
    """PEFT on transformers: what every answer must equal."""

    model_path: Path
    adapters_path: Path
    names: tuple[str, ...] = tuple(ADAPTERS)

    @cached_property
    def _model(self) -> Any:
        from transformers import AutoModelForCausalLM

        return with_adapters(AutoModelForCausalLM, self.model_path, self.adapters_path, self.names)

    def answer(self, prompt: Sequence[int], adapter: str | None, max_tokens: int = 8) -> Answer:
        """Return PEFT's greedy answer."""
        import torch

        with torch.no_grad(), answering_as(self._model, adapter):
            out = self._model.generate(
                input_ids=torch.tensor([list(prompt)]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=max_tokens,
                min_new_tokens=max_tokens,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
                pad_token_id=1,
            )
        tokens = out.sequences[0, len(prompt) :].tolist()
        logprobs = [
            float(torch.log_softmax(logits[0], -1)[token]) for logits, token in zip(out.logits, tokens, strict=True)
        ]
        return Answer(tokens, logprobs)

    def prompt_logprobs(self, prompt: Sequence[int], adapter: str) -> list[float]:
        """Return the log-probability of each prompt token but the first."""
        chances = self.logprobs(prompt, adapter)[:-1]
        return [float(chances[index, token]) for index, token in enumerate(prompt[1:])]

    def logprobs(self, tokens: Sequence[int], adapter: str | None) -> Any:
        """Return the log-probabilities of what follows each token, shape [tokens, vocabulary]."""
        import torch

        with torch.no_grad(), answering_as(self._model, adapter):
            return torch.log_softmax(self._model(input_ids=torch.tensor([list(tokens)])).logits[0], -1)


@dataclass
class Engine:
    """One stock vLLM engine in a process of its own, with every adapter slot taken."""

    llm: Any
    adapters_path: Path

    def lora(self, name: str) -> Any:
        """Return the request object of an adapter."""
        from vllm.lora.request import LoRARequest

        return LoRARequest(name, 1 + list(ADAPTERS).index(name), str(self.adapters_path / name))

    def output(self, prompt: Sequence[int], lora_request: Any, max_tokens: int = 8) -> Any:
        """Return vLLM's output of a greedy call with any adapter."""
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=max_tokens, min_tokens=max_tokens, temperature=0, detokenize=False)
        (found,) = self.llm.generate(
            {"prompt_token_ids": list(prompt)}, params, lora_request=lora_request, use_tqdm=False
        )
        return found

    def generate(self, prompt: Sequence[int], lora_request: Any, max_tokens: int = 8) -> list[int]:
        """Return the tokens of :meth:`output`."""
        return list(self.output(prompt, lora_request, max_tokens).outputs[0].token_ids)

    def answers(
        self,
        calls: Sequence[tuple[Sequence[int], str | None]],
        *,
        max_tokens: int = 8,
        cache_salt: str | None = None,
        pictures: Sequence[Sequence[Any]] = (),
        **sampling: Any,
    ) -> list[Answer]:
        """Run the calls (prompt, adapter) in one batch, greedily, each with its pictures if there are any."""
        from vllm import SamplingParams

        params = SamplingParams(
            max_tokens=max_tokens,
            min_tokens=max_tokens,
            temperature=0,
            logprobs=0,
            detokenize=False,
            **sampling,
        )
        prompts: list[dict[str, Any]] = [{"prompt_token_ids": list(prompt)} for prompt, _ in calls]
        if cache_salt is not None:
            prompts = [{**prompt, "cache_salt": cache_salt} for prompt in prompts]
        for prompt, of_prompt in zip(prompts, pictures, strict=False):
            prompt["multi_modal_data"] = {"image": list(of_prompt)} if of_prompt else {}
        loras = [None if name is None else self.lora(name) for _, name in calls]
        outputs = self.llm.generate(prompts, params, lora_request=loras, use_tqdm=False)
        return [
            Answer(
                list(output.outputs[0].token_ids),
                [
                    step[token].logprob
                    for step, token in zip(output.outputs[0].logprobs, output.outputs[0].token_ids, strict=True)
                ],
                output.num_cached_tokens,
            )
            for output in outputs
        ]


@contextmanager
def started_engine(model_path: Path, adapters_path: Path, **changes: Any) -> Iterator[Engine]:
    """Run an engine like the session's with other arguments; it and its processes end with the context."""
    os.environ.update(ENVIRONMENT)
    from vllm import LLM

    arguments: dict[str, Any] = {
        "dtype": "float32",
        "enforce_eager": True,
        "block_size": 32,
        "max_model_len": 1024,
        "max_num_seqs": 12,
        "max_num_batched_tokens": 128,
        "enable_lora": True,
        "max_loras": len(ADAPTERS),
        "max_cpu_loras": len(ADAPTERS),
        "max_lora_rank": 16,
        "disable_log_stats": False,
    }
    llm = LLM(str(model_path), **{**arguments, **changes})
    try:
        yield Engine(llm, adapters_path)
    finally:
        llm.llm_engine.engine_core.shutdown()


def words(count: int, seed: int) -> list[int]:
    """Return a prompt without any invocation token."""
    chooser = random.Random(seed)
    return [chooser.randrange(10, 900) for _ in range(count)]


def assert_exact(
    reference: Reference, calls: Sequence[tuple[Sequence[int], str | None]], answers: Sequence[Answer]
) -> None:
    """Fail unless every answer has PEFT's tokens and log-probabilities."""
    for (prompt, adapter), answer in zip(calls, answers, strict=True):
        expected = reference.answer(prompt, adapter, len(answer.tokens))
        assert answer.tokens == expected.tokens, f"{adapter} over {len(prompt)} tokens"
        assert answer.logprobs == pytest.approx(expected.logprobs, abs=1e-4), adapter
