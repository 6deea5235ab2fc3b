"""One vLLM engine as the platform runs it: its arguments, its environment, and its outputs in our types."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import Any

import psutil

from aloraserve.adapters import AdapterVersion
from aloraserve.engine_model.step_stats import StepStats
from aloraserve.errors import InvalidAdapterError
from aloraserve.serving.engine_messages import (
    EngineCall,
    EngineChunk,
    EngineRefusal,
    EngineReply,
)
from aloraserve.wire.sampling import SamplingSettings
from aloraserve_services.engine.base import Level
from aloraserve_services.engine.parent_watch import PARENT_VARIABLE
from aloraserve_services.engine.vllm.reporting_scheduler import SCHEDULER
from aloraserve_services.engine.vllm.sampling_params import sampling_params
from aloraserve_services.engine.vllm.step_observer import StepObserver
from aloraserve_services.engine.vllm.structure_check import StructureCheck
from aloraserve_services.engine.vllm.token_logprobs import LogprobReader
from aloraserve_services.models.hardware import is_cpu_engine
from aloraserve_services.plan import FleetPlan


def prepare_environment(plan: FleetPlan) -> None:
    """Set what vLLM reads from the environment; call before vLLM is imported.

    ``nobind`` and one OpenMP thread: Serve replicas share an environment, and a fixed binding would put all engines
    on the same core.
    """
    os.environ.update(
        {
            PARENT_VARIABLE: str(os.getpid()),
            "VLLM_PLUGINS": "alora,aloraserve_parent",
            "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
            "VLLM_ALORA_ABSENT": "error",
            # Every request comes from a gateway.
            "VLLM_ALORA_SHARED_PREFIXES": "1",
        }
    )
    if is_cpu_engine():
        os.environ.update(
            {
                "OMP_NUM_THREADS": "1",
                # All that would be compiled is a helper of log-probabilities: 15 s at the first call that asks for
                # them, and a C++ compiler that a machine may not have.
                "TORCHDYNAMO_DISABLE": "1",
                "VLLM_CPU_OMP_THREADS_BIND": "nobind",
                "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            }
        )
        # It would override the engine's argument.
        os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)


def engine_arguments(plan: FleetPlan, events_endpoint: str, replay_endpoint: str | None = None) -> dict[str, Any]:
    """Return the arguments of ``AsyncEngineArgs``.

    Args:
        plan: of the fleet.
        events_endpoint: where KV events go; an ``ipc://`` address in a private folder.
        replay_endpoint: where missed ones can be asked for; another one.
    """
    settings = plan.settings
    arguments: dict[str, Any] = {
        "model": str(plan.model_path),
        "served_model_name": plan.served_name,
        "dtype": plan.dtype,
        "max_model_len": settings.max_model_len,
        "block_size": settings.block_tokens,
        "max_num_seqs": settings.max_num_seqs,
        "stream_interval": settings.stream_interval,
        "scheduling_policy": settings.scheduling_policy,
        "generation_config": settings.generation_config,
        "enable_prefix_caching": True,
        "kv_events_config": _kv_events(events_endpoint, replay_endpoint),
        "enable_log_requests": False,
        "scheduler_cls": SCHEDULER,
        # An engine has one backend; "auto" takes the one that its first such call needs, and others then fail.
        "structured_outputs_config": {"backend": "guidance"},
    }
    parallel = settings.gpus_per_engine
    if parallel > 1:
        # Processes of this replica: inside a Ray actor vLLM would otherwise ask Ray for workers.
        arguments["distributed_executor_backend"] = "mp"
    if is_cpu_engine():
        arguments |= {
            "enforce_eager": True,
            "distributed_executor_backend": "uni" if parallel == 1 else "mp",
            # Each worker has a share of the heads of every token.
            "kv_cache_memory_bytes": int(settings.kv_cache_gib * (1 << 30)) // parallel,
        }
    if plan.limits is not None:
        arguments |= {
            # Also with an empty folder: adapters may come.
            "enable_lora": True,
            "max_loras": settings.max_loras,
            # Nothing is set aside for these. If there were more, vLLM would evict one by itself and load it again amid
            # a step; ``EngineAdapters`` unloads one before it loads another.
            "max_cpu_loras": settings.max_loaded_adapters,
            "worker_extension_cls": "aloraserve_services.engine.vllm.slots_extension.SlotsExtension",
            # Linears that no adapter changes would be computed with zeros.
            "lora_target_modules": sorted(plan.limits.modules),
            "max_lora_rank": plan.limits.rank,
        }
    return arguments | settings.engine_args


def _kv_events(endpoint: str, replay_endpoint: str | None) -> Any:
    from vllm.config import KVEventsConfig

    return KVEventsConfig(
        enable_kv_cache_events=True, publisher="zmq", endpoint=endpoint, replay_endpoint=replay_endpoint, hwm=100_000
    )


class VllmEngine:
    """A started vLLM engine; see :class:`~aloraserve_services.engine.base.Engine`.

    Args:
        plan: of the fleet.
        events_endpoint: where it publishes its KV events.
        replay_endpoint: where it replays them.
    """

    def __init__(self, plan: FleetPlan, events_endpoint: str, replay_endpoint: str | None = None) -> None:
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self._plan = plan
        self._steps = StepObserver()
        self._versions: dict[int, AdapterVersion] = {}
        arguments = AsyncEngineArgs(**engine_arguments(plan, events_endpoint, replay_endpoint))
        self._llm = AsyncLLM.from_engine_args(arguments, stat_loggers=[lambda config, index=0: self._steps])
        self._logprobs = LogprobReader(self._llm.get_tokenizer())
        self._structures = StructureCheck(self._llm.get_tokenizer())

    @property
    def kv_usage(self) -> float:
        """Share of KV blocks in use, from 0 to 1."""
        return self._steps.kv_usage

    @property
    def kv_tokens(self) -> int:
        """Tokens that the KV cache has room for."""
        cache = self._llm.vllm_config.cache_config
        return int(cache.num_gpu_blocks or 0) * int(cache.block_size)

    @property
    def adapter_slots(self) -> int:
        """Distinct adapters that may run at once."""
        return 0 if self._plan.limits is None else self._plan.settings.max_loras

    @property
    def adapter_capacity(self) -> int:
        """Versions that may be loaded at once."""
        return self._plan.settings.max_loaded_adapters

    @property
    def step_tokens(self) -> int:
        """Tokens that one step computes at most."""
        return int(self._llm.vllm_config.scheduler_config.max_num_batched_tokens)

    def observe_steps(self, observe: Callable[[StepStats], None]) -> None:
        """See the contract."""
        self._steps.observe = observe

    async def add_adapter(self, version: AdapterVersion) -> None:
        """See the contract. vLLM calls it between two steps, and what it raises there comes back here."""
        try:
            await self._llm.add_lora(lora_request(version))
        except Exception as error:
            # Whatever vLLM raises there, its engine goes on.
            if self.is_dead:
                raise
            raise InvalidAdapterError(f"the engine cannot load it: {type(error).__name__}") from error
        self._versions[version.engine_id] = version

    async def remove_adapter(self, version: AdapterVersion) -> None:
        """See the contract."""
        del self._versions[version.engine_id]
        await self._llm.remove_lora(version.engine_id)

    async def levels(self) -> dict[str, Level]:
        """See the contract."""
        if self._plan.limits is None:
            return {}
        # Each worker has the same; the first one's will do.
        loaded, slotted = (await self._llm.collective_rpc("adapter_levels"))[0]
        known = {number: self._versions[number].key for number in loaded if number in self._versions}
        return {key: "slot" if number in slotted else "host" for number, key in known.items()}

    async def reset_prefix_cache(self, *, preempt: bool = False) -> bool:
        """Drop every cached block; return whether that worked.

        Preempted requests go back to vLLM's waiting queue and are computed again (``v1/core/sched/scheduler.py``);
        those that wait for a transfer of KV blocks cannot be, and vLLM then raises.
        """
        try:
            return bool(await self._llm.reset_prefix_cache(reset_running_requests=preempt))
        except RuntimeError:
            if self.is_dead:
                raise
            return False

    @property
    def is_dead(self) -> bool:
        """Whether the engine's process has ended or failed."""
        return bool(self._llm.errored)

    async def check_health(self) -> None:
        """Raise if the engine is dead."""
        await self._llm.check_health()

    def kill(self) -> None:
        """See the contract. vLLM notices that its processes have ended, and so ends its calls.

        They are the only ones below this one: the core, its workers, and Python's tracker of shared memory.
        """
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def shutdown(self) -> None:
        """Stop the engine and its processes."""
        self._llm.shutdown()

    async def generate(self, call: EngineCall, priority: int = 0) -> AsyncGenerator[EngineReply]:
        """Yield what the engine generates, as it comes; a call that it refuses yields one refusal.

        Closing the iterator aborts the request in the engine.
        """
        from vllm.exceptions import VLLMValidationError

        if fault := await self._structures.fault(call.sampling.structured):
            yield EngineRefusal(f"the form of the answer cannot be compiled: {fault}", "structured_outputs")
            return
        prompt: dict[str, Any] = {"prompt_token_ids": call.token_ids}
        if call.cache_salt is not None:
            prompt["cache_salt"] = call.cache_salt
        lora = None if call.adapter is None else lora_request(self._versions[call.adapter.engine_id])
        outputs = self._llm.generate(
            prompt, self._parameters(call), call.request_id, lora_request=lora, priority=priority
        )
        async with contextlib.aclosing(outputs):
            try:
                output = await anext(outputs)
            except VLLMValidationError as error:
                yield EngineRefusal(str(error.args[0]), error.parameter)
                return
            except ValueError as error:
                # Some of vLLM's older checks of a request's content; later than this it is not a fault of the client's.
                yield EngineRefusal(str(error))
                return
            for chunk in self._chunks(output, call):
                yield chunk
            async for output in outputs:
                for chunk in self._chunks(output, call):
                    yield chunk

    def _parameters(self, call: EngineCall) -> Any:
        """Return vLLM's parameters of a call, with how many of its tokens are everybody's."""
        from vllm_alora.shared_prefix import PUBLIC_KEY

        parameters = sampling_params(call.sampling)
        if call.public_blocks:
            public = {PUBLIC_KEY: call.public_blocks * self._plan.keyspace.block_tokens}
            parameters.extra_args = {**(parameters.extra_args or {}), **public}
        return parameters

    def _chunks(self, output: Any, call: EngineCall) -> list[EngineChunk]:
        """Return the chunks of an output; equal choices have equal ones."""
        first = EngineChunk(
            index=0,
            text="",
            tokens=0,
            cached_tokens=output.num_cached_tokens or 0,
            prefill_s=_prefill_s(output.metrics),
            prompt_logprobs=self._logprobs.of_prompt(output, call.sampling),
        )
        chunks = [self._chunk(first, choice, call.sampling) for choice in output.outputs]
        copies = range(1, call.sampling.n if call.sampling.is_greedy else 1)
        return chunks + [replace(chunk, index=copy) for copy in copies for chunk in chunks]

    def _chunk(self, first: EngineChunk, choice: Any, sampling: SamplingSettings) -> EngineChunk:
        return replace(
            first,
            index=choice.index,
            text=choice.text,
            tokens=len(choice.token_ids),
            token_ids=tuple(choice.token_ids),
            finish_reason=choice.finish_reason,
            stop_reason=choice.stop_reason,
            logprobs=self._logprobs.read(choice, sampling),
        )


def lora_request(version: AdapterVersion) -> Any:
    """Return what vLLM knows a version by.

    vLLM takes two requests of one name for one adapter (``LoRARequest.__eq__``), keys blocks by the name, and names the
    adapter in KV events: so versions have names of their own, and not their adapter's.
    """
    from vllm.lora.request import LoRARequest

    return LoRARequest(version.engine_name, version.engine_id, str(version.path))


def _prefill_s(times: Any) -> float:
    """Return what a request's prefill took in the engine core (vLLM's ``RequestStateStats``), 0 if it is not known."""
    if times is None or not times.scheduled_ts:
        return 0.0
    return max(0.0, float(times.first_token_ts - times.scheduled_ts))
