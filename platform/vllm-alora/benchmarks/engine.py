"""One vLLM engine in this process, driven step by step so that every token's time is known."""

from __future__ import annotations

import gc
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subject import Adapter

BLOCK_TOKENS = 32
MAX_MODEL_TOKENS = 8192
KV_BYTES = 1 << 30
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_PLUGINS": "alora",
}
"""Set before vLLM is imported: one process, one thread, this plugin and no other."""


def set_environment() -> None:
    """Set :data:`ENVIRONMENT` in this process and those that it starts."""
    os.environ.update(ENVIRONMENT)


@dataclass(frozen=True)
class Call:
    """One request, alone in the engine.

    Attributes:
        ttft_s: from handing the prompt over to the first token.
        total_s: to the last token.
        tokens: how many were generated.
        cached_tokens: of the prompt, taken from the prefix cache.
    """

    ttft_s: float
    total_s: float
    tokens: int
    cached_tokens: int

    @property
    def decode_s(self) -> float:
        """Time per token after the first; needs two tokens or more."""
        return (self.total_s - self.ttft_s) / (self.tokens - 1)


class Engine:
    """A running engine. Greedy; answers have the length that is asked for."""

    def __init__(
        self,
        model: Path,
        dtype: str,
        adapters: Sequence[Adapter],
        *,
        all_linears: bool = False,
        **changes: Any,
    ) -> None:
        """Start it (some ten seconds).

        Args:
            model: its folder.
            dtype: of the model.
            adapters: one or more; there are as many slots.
            all_linears: let vLLM prepare every linear for adapters (its default) instead of those that they change;
                the others then multiply by zeros.
            changes: to vLLM's arguments.
        """
        from vllm import LLM

        configs = [_config(adapter) for adapter in adapters]
        lora: dict[str, Any] = {
            "enable_lora": True,
            "max_loras": len(adapters),
            "max_lora_rank": max(int(config["r"]) for config in configs),
        }
        if not all_linears:
            lora["lora_target_modules"] = sorted({name for config in configs for name in config["target_modules"]})
        self._ids = {adapter: number for number, adapter in enumerate(adapters, start=1)}
        settings: dict[str, Any] = {
            "dtype": dtype,
            "block_size": BLOCK_TOKENS,
            "max_model_len": MAX_MODEL_TOKENS,
            "kv_cache_memory_bytes": KV_BYTES,
            "enforce_eager": True,
            "distributed_executor_backend": "uni",
        }
        self._llm = LLM(str(model), **{**settings, **lora, **changes})
        self._calls = 0

    @property
    def settings(self) -> str:
        """Describe how the engine cuts prompts up, which is vLLM's own choice."""
        scheduler = self._llm.llm_engine.vllm_config.scheduler_config
        return (
            f"chunks of {scheduler.max_num_batched_tokens} tokens, {scheduler.max_num_seqs} requests at most, "
            f"blocks of {BLOCK_TOKENS}, async scheduling {'on' if scheduler.async_scheduling else 'off'}"
        )

    def call(self, prompt: Sequence[int], adapter: Adapter | None = None, tokens: int = 1) -> Call:
        """Run one request and time its tokens."""
        engine = self._llm.llm_engine
        gc.collect()
        times: list[tuple[float, int]] = []
        cached = 0
        start = time.perf_counter()
        self._add(prompt, adapter, tokens)
        while engine.has_unfinished_requests():
            for output in engine.step():
                times.append((time.perf_counter() - start, len(output.outputs[0].token_ids)))
                cached = output.num_cached_tokens or 0
        first = next(at for at, count in times if count)
        return Call(first, times[-1][0], times[-1][1], cached)

    def decode_under(self, context: Any, prompt: Sequence[int], adapter: Adapter | None, tokens: int) -> float:
        """Run one request, with all steps after the first token inside ``context``; return their time per token."""
        engine = self._llm.llm_engine
        self._add(prompt, adapter, tokens)
        while not any(output.outputs[0].token_ids for output in engine.step()):
            pass
        with context:
            start = time.perf_counter()
            while engine.has_unfinished_requests():
                engine.step()
            taken = time.perf_counter() - start
        return taken / (tokens - 1)

    def batch_s(self, prompts: Sequence[Sequence[int]], tokens: int) -> float:
        """Run base requests together and return how long all took."""
        wanted = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        gc.collect()
        start = time.perf_counter()
        self._llm.generate(wanted, _sampling(tokens), use_tqdm=False)
        return time.perf_counter() - start

    def _add(self, prompt: Sequence[int], adapter: Adapter | None, tokens: int) -> None:
        self._calls += 1
        self._llm.llm_engine.add_request(
            str(self._calls), _prompt(prompt), _sampling(tokens), lora_request=self._request(adapter)
        )

    def _request(self, adapter: Adapter | None) -> Any:
        from vllm.lora.request import LoRARequest

        return None if adapter is None else LoRARequest(adapter.name, self._ids[adapter], str(adapter.path))


def _prompt(tokens: Sequence[int]) -> Any:
    return {"type": "token", "prompt_token_ids": list(tokens)}


def _sampling(tokens: int) -> Any:
    from vllm import SamplingParams

    return SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True, detokenize=False)


def _config(adapter: Adapter) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((adapter.path / "adapter_config.json").read_text())
    return content
