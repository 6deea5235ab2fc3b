"""Engine cores without a model: vLLM's own core, scheduler, requests and adapter manager over a cache of names.

A token's KV is not a tensor here but a name for what it depends on: the KV before it, the token, and the weights it was
computed with. Two blocks hold the same KV exactly if their last tokens have the same name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

from vllm_alora.activation import activation_of
from vllm_alora.adapters import KnownAdapters
from vllm_alora.reloads import Reloads

BLOCK = 4
MODEL = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 1024,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def write_files(folder: Path, weights: str, **config: Any) -> Path:
    """Write an adapter whose weights are a word."""
    folder.mkdir(parents=True, exist_ok=True)
    valid = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps({**valid, **config}))
    (folder / "adapter_model.safetensors").write_text(weights)
    return folder


def name_of(*parts: Any) -> str:
    """Return a short name for what something is made of."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def config_of(folder: Path, **lora: Any) -> Any:
    """Return a configuration with room for 17 blocks, 2 adapters in a batch and 3 in a worker."""
    from vllm.config import CacheConfig, LoRAConfig, ModelConfig, SchedulerConfig, VllmConfig

    (folder / "config.json").write_text(json.dumps(MODEL))
    config = VllmConfig(
        model_config=ModelConfig(model=str(folder), skip_tokenizer_init=True, dtype="float32", max_model_len=256),
        cache_config=CacheConfig(block_size=BLOCK, enable_prefix_caching=True),
        scheduler_config=SchedulerConfig(
            max_num_seqs=6,
            max_num_batched_tokens=24,
            max_model_len=256,
            is_encoder_decoder=False,
            enable_chunked_prefill=True,
            async_scheduling=False,
        ),
        lora_config=LoRAConfig(max_lora_rank=8, max_loras=2, max_cpu_loras=3, **lora),
    )
    config.cache_config.num_gpu_blocks = 18
    return config


class Slots:
    """The part of vLLM's adapter manager that holds weights; the part that chooses is vLLM's own."""

    capacity = 3

    def __init__(self) -> None:
        self.weights: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.weights)

    def list_adapters(self) -> list[int]:
        return list(self.weights)

    def add_adapter(self, lora: Any) -> bool:
        self.weights[lora.id] = lora.weights
        return True

    def activate_adapter(self, lora_id: int) -> bool:
        self.weights[lora_id] = self.weights.pop(lora_id)
        return True

    def get_adapter(self, lora_id: int) -> str | None:
        return self.weights.get(lora_id)

    def remove_adapter(self, lora_id: int) -> bool:
        return self.weights.pop(lora_id, None) is not None

    def remove_oldest_adapter(self) -> bool:
        del self.weights[next(iter(self.weights))]
        return True


@dataclass
class Worker:
    """A worker whose adapters are words, chosen and evicted by vLLM's own ``LRUCacheWorkerLoRAManager``."""

    in_memory: dict[str, str] = field(default_factory=dict)
    """Weights handed over in memory, by path."""

    @cached_property
    def manager(self) -> Any:
        from vllm.lora.model_manager import LRUCacheLoRAModelManager
        from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager

        manager = LRUCacheWorkerLoRAManager.__new__(LRUCacheWorkerLoRAManager)
        slots = type("SlotsOfVllm", (Slots, LRUCacheLoRAModelManager), {})
        manager._adapter_manager = slots.__new__(slots)
        Slots.__init__(manager._adapter_manager)
        manager._load_adapter = self.load  # type: ignore[method-assign]
        return manager

    def load(self, lora_request: Any) -> Any:
        from vllm.lora.peft_helper import PEFTHelper

        path = lora_request.lora_path
        if path in self.in_memory:
            PEFTHelper.from_dict({"r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]})
            return SimpleNamespace(id=lora_request.lora_int_id, weights=self.in_memory[path])
        PEFTHelper.from_local_dir(path, None)
        return SimpleNamespace(
            id=lora_request.lora_int_id, weights=(Path(path) / "adapter_model.safetensors").read_text()
        )

    @property
    def model_runner(self) -> Any:
        return SimpleNamespace(lora_manager=self.manager)

    def list_loras(self) -> set[int]:
        found: set[int] = self.manager.list_adapters()
        return found

    def weights(self, lora_id: int) -> str:
        return str(self.manager._adapter_manager.weights[lora_id])


@dataclass
class Core:
    """One engine: what its process knows of adapters, vLLM's core and scheduler, a worker, and the KV it computed."""

    config: Any
    worker: Worker = field(default_factory=Worker)
    adapters: KnownAdapters = field(default_factory=KnownAdapters)
    reloads: Reloads = field(default_factory=Reloads)
    kv: dict[tuple[int, int], str] = field(default_factory=dict)
    known: dict[str, Any] = field(default_factory=dict)
    """By request id: adapter, activation point and weights, as the worker has them."""

    @cached_property
    def core(self) -> Any:
        from vllm.utils.hashing import sha256_cbor
        from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
        from vllm.v1.engine.core import EngineCore

        init_none_hash(sha256_cbor)
        core = EngineCore.__new__(EngineCore)
        core.vllm_config, core.scheduler, core.mm_receiver_cache = self.config, self.scheduler, None
        core.request_block_hasher = get_request_block_hasher(BLOCK, sha256_cbor)
        core.model_executor = MagicMock()
        core.model_executor.list_loras = self.worker.list_loras
        core.model_executor.add_lora = self.worker.manager.add_adapter
        core.model_executor.remove_lora = self.worker.manager.remove_adapter
        core.model_executor.collective_rpc = lambda method, args: [method(self.worker, *args)]
        return core

    @cached_property
    def scheduler(self) -> Any:
        import torch
        from vllm.v1.core.sched.scheduler import Scheduler
        from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec

        spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=1, dtype=torch.float32)
        cache = KVCacheConfig(
            num_blocks=self.config.cache_config.num_gpu_blocks,
            kv_cache_tensors=[],
            kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)],
        )
        no_grammars = MagicMock(**{"should_advance.return_value": False})
        return Scheduler(
            vllm_config=self.config, kv_cache_config=cache, structured_output_manager=no_grammars, block_size=BLOCK
        )

    @contextmanager
    def process(self) -> Iterator[None]:
        """Be this engine's process: what the plugin keeps per process is this engine's."""
        from vllm_alora import adapters, announcement, decision, reloads
        from vllm_alora.patches import admission, front_end, reload

        modules = (adapters, announcement, decision, reloads, admission, front_end, reload)
        before = adapters.ADAPTERS, reloads.RELOADS
        try:
            self._know(modules, self.adapters, self.reloads)
            yield
        finally:
            self._know(modules, *before)

    @staticmethod
    def _know(modules: Any, adapters: KnownAdapters, reloads: Reloads) -> None:
        for module in modules:
            for name, value in (("ADAPTERS", adapters), ("RELOADS", reloads)):
                if hasattr(module, name):
                    setattr(module, name, value)

    def add(self, name: str, prompt: list[int], lora: Any, *, max_tokens: int = 8, **changes: Any) -> Any:
        """Send a request to the core as a front end does that knows nothing of aLoRA."""
        request = self.arrive(name, prompt, lora, max_tokens=max_tokens, **changes)
        self.admit(request)
        return request

    def arrive(self, name: str, prompt: list[int], lora: Any, *, max_tokens: int = 8, **changes: Any) -> Any:
        """Make a request as the core's input thread does; the core's own thread may still load adapters."""
        from vllm import SamplingParams
        from vllm.v1.engine import EngineCoreRequest

        params = SamplingParams(max_tokens=max_tokens, ignore_eos=True, extra_args=changes.pop("extra_args", None))
        arrived = EngineCoreRequest(
            request_id=name,
            prompt_token_ids=prompt,
            mm_features=None,
            sampling_params=params,
            pooling_params=None,
            arrival_time=0.0,
            lora_request=lora,
            cache_salt=None,
            data_parallel_rank=None,
            **changes,
        )
        with self.process():
            return self.core.preprocess_add_request(arrived)[0]

    def admit(self, request: Any) -> None:
        """Hand a request to the scheduler."""
        with self.process():
            self.core.add_request(request)

    def add_lora(self, lora: Any) -> None:
        with self.process():
            self.core.add_lora(lora)

    def remove_lora(self, lora_id: int) -> None:
        with self.process():
            self.core.remove_lora(lora_id)

    def step(self) -> list[Any]:
        """Schedule, compute names for the scheduled tokens, and return the requests that have ended."""
        from vllm.v1.outputs import ModelRunnerOutput

        with self.process():
            scheduled = self.scheduler.schedule()
            sampled = self._execute(scheduled)
            requests = [self.scheduler.requests[req_id] for req_id in sampled]
            output = ModelRunnerOutput(
                req_ids=list(sampled),
                req_id_to_index={req_id: index for index, req_id in enumerate(sampled)},
                sampled_token_ids=list(sampled.values()),
            )
            self.scheduler.update_from_output(scheduled, output)
        return [request for request in requests if request.is_finished()]

    def _execute(self, scheduled: Any) -> dict[str, list[int]]:
        for new in scheduled.scheduled_new_reqs:
            self.known[new.req_id] = (new.lora_request, activation_of(new.sampling_params))
        started = {new.req_id: new.num_computed_tokens for new in scheduled.scheduled_new_reqs}
        cached = scheduled.scheduled_cached_reqs
        started.update(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        for req_id in started:
            lora, _ = self.known[req_id]
            if lora is not None:
                self.worker.manager.add_adapter(lora)
        # In the scheduler's order: a request may meet blocks that another one fills in the same step.
        return {
            req_id: self._compute(req_id, started[req_id], count)
            for req_id, count in scheduled.num_scheduled_tokens.items()
        }

    def _compute(self, req_id: str, start: int, count: int) -> list[int]:
        request = self.scheduler.requests[req_id]
        (blocks,) = self.scheduler.kv_cache_manager.get_block_ids(req_id)
        name = self.at(blocks, start - 1)
        for position in range(start, start + count):
            name = name_of(name, request.all_token_ids[position], self.weights_at(req_id, position))
            self.kv[blocks[position // BLOCK], position % BLOCK] = name
        return [int(name, 16) % 8] if start + count == request.num_tokens else []

    def at(self, blocks: list[int], position: int) -> str:
        """Return the KV at a position of a request's blocks."""
        return "start" if position < 0 else self.kv[blocks[position // BLOCK], position % BLOCK]

    def weights_at(self, req_id: str, position: int) -> str | None:
        """Return the weights that a worker computes a position of a request with, None for the base model's."""
        lora, activation = self.known[req_id]
        if lora is None or (activation is not None and position < activation):
            return None
        return self.worker.weights(lora.lora_int_id)

    def cached(self) -> dict[bytes, str]:
        """Return the KV of each cached block, by its hash."""
        pool = self.scheduler.kv_cache_manager.block_pool
        return {
            bytes(block.block_hash): self.kv[block.block_id, BLOCK - 1]
            for block in pool.blocks
            if block.block_hash is not None
        }
