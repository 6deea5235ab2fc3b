"""Count what aLoRA does, at vLLM's own ``/metrics`` (``vllm/v1/engine/output_processor.py``).

All counting is in the front end, which serves the endpoint: it knows each request's activation point and sees, with the
first output, how much of the prompt was cached. Labels are vLLM's own: ``model_name`` (the served base model's) and
``engine`` (the data-parallel rank).

==========================================  =================================================================
counter                                     meaning
==========================================  =================================================================
vllm_alora_requests_total{kind}             requests that were answered, by kind: base, lora, alora
vllm_alora_tokens_total{effect}             tokens of aLoRA requests: masked (before the activation point, the
                                            base model's), adapted (from it on, generated ones included)
vllm_alora_cross_adapter_cached_tokens_total  prompt tokens of aLoRA requests found in blocks keyed as the base
                                            model's: what a cache keyed by adapter would not have shared
==========================================  =================================================================
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from vllm_alora.activation import activation_of
from vllm_alora.patches.seam import replace

KINDS, EFFECTS = ("base", "lora", "alora"), ("masked", "adapted")
_RUNNING = "_alora_running"
_MODEL = "_alora_model_name"
_ENGINE: ContextVar[int] = ContextVar("vllm_alora_engine", default=0)
"""Engine whose outputs the current task took last."""


def apply() -> None:
    """Wrap ``OutputProcessor``, the front ends that have one, and the clients that fetch an engine's outputs."""
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.core_client import AsyncMPClient, SyncMPClient
    from vllm.v1.engine.llm_engine import LLMEngine
    from vllm.v1.engine.output_processor import OutputProcessor

    replace(OutputProcessor, "__init__", _wrap_init)
    replace(OutputProcessor, "add_request", _wrap_add, "request")
    replace(OutputProcessor, "process_outputs", _wrap_outputs, "engine_core_outputs")
    replace(OutputProcessor, "abort_requests", _wrap_abort, "request_ids", "internal")
    replace(AsyncLLM, "__init__", _wrap_front_end, "vllm_config")
    replace(LLMEngine, "__init__", _wrap_front_end, "vllm_config")
    replace(SyncMPClient, "get_output", _wrap_get)
    replace(AsyncMPClient, "get_output_async", _wrap_get_async)


class Counters:
    """The counters of this process, in prometheus-client's default registry, which vLLM serves."""

    def __init__(self) -> None:
        from prometheus_client import Counter

        own = ["model_name", "engine"]
        self.requests = Counter("vllm_alora_requests", "Answered requests by kind of adapter.", [*own, "kind"])
        self.tokens = Counter(
            "vllm_alora_tokens", "Tokens of aLoRA requests by whether the adapter changed them.", [*own, "effect"]
        )
        self.cross_adapter = Counter(
            "vllm_alora_cross_adapter_cached_tokens",
            "Prompt tokens of aLoRA requests found in blocks keyed as the base model's.",
            own,
        )

    def begin(self, model_name: str, engine: int) -> None:
        """Show an engine's counters at 0."""
        for kind in KINDS:
            self.requests.labels(model_name, engine, kind)
        for effect in EFFECTS:
            self.tokens.labels(model_name, engine, effect)
        self.cross_adapter.labels(model_name, engine)


@functools.cache
def counters() -> Counters:
    """Return this process's counters; they exist only where a front end does."""
    return Counters()


@dataclass(slots=True)
class _Running:
    """A request that is not counted yet, and an aLoRA request until it ends.

    Args:
        kind: of its adapter.
        is_first_choice: of the choices of one call (``n``) each is a request of its own; the first one counts the call.
        masked: an aLoRA prompt's tokens before the activation point.
        adapted: those from it on.
    """

    kind: str
    is_first_choice: bool
    masked: int = 0
    adapted: int = 0
    counted: bool = False


def _wrap_init(original: Any) -> Any:
    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        setattr(self, _RUNNING, {})
        setattr(self, _MODEL, "")

    return init


def _wrap_front_end(original: Any) -> Any:
    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        model_name = str(self.vllm_config.model_config.served_model_name)
        setattr(self.output_processor, _MODEL, model_name)
        for engine in getattr(self.engine_core, "engine_ranks_managed", [0]):
            counters().begin(model_name, engine)

    return init


def _wrap_get(original: Any) -> Any:
    @functools.wraps(original)
    def get_output(self: Any) -> Any:
        outputs = original(self)
        _ENGINE.set(outputs.engine_index)
        return outputs

    return get_output


def _wrap_get_async(original: Any) -> Any:
    @functools.wraps(original)
    async def get_output_async(self: Any) -> Any:
        outputs = await original(self)
        _ENGINE.set(outputs.engine_index)
        return outputs

    return get_output_async


def _wrap_add(original: Any) -> Any:
    @functools.wraps(original)
    def add_request(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        is_update = request.request_id in self.request_states
        added = original(self, request, *args, **kwargs)
        index = args[2] if len(args) > 2 else kwargs.get("request_index", 0)
        if not is_update:
            getattr(self, _RUNNING)[request.request_id] = _running(request, is_first_choice=index == 0)
        return added

    return add_request


def _running(request: Any, *, is_first_choice: bool) -> _Running:
    activation = activation_of(request.sampling_params)
    if activation is None:
        return _Running("base" if request.lora_request is None else "lora", is_first_choice)
    prompt = len(request.prompt_token_ids)
    masked = min(activation, prompt)
    return _Running("alora", is_first_choice, masked, prompt - masked)


def _wrap_outputs(original: Any) -> Any:
    @functools.wraps(original)
    def process_outputs(self: Any, engine_core_outputs: Any, *args: Any, **kwargs: Any) -> Any:
        running = getattr(self, _RUNNING)
        if running:
            labels = (getattr(self, _MODEL), _ENGINE.get())
            for output in engine_core_outputs:
                request = running.get(output.request_id)
                if request is not None:
                    _count(request, output, labels)
                    if output.finish_reason is not None or request.kind != "alora":
                        del running[output.request_id]
        processed = original(self, engine_core_outputs, *args, **kwargs)
        # A stop string ends a request here; the engine core hears of it as an abort.
        for request_id in processed.reqs_to_abort if running else ():
            running.pop(request_id, None)
        return processed

    return process_outputs


def _count(request: _Running, output: Any, labels: tuple[str, int]) -> None:
    if not request.counted and request.is_first_choice:
        counters().requests.labels(*labels, request.kind).inc()
    if request.kind == "alora":
        _count_tokens(request, output, labels)
    request.counted = True


def _count_tokens(request: _Running, output: Any, labels: tuple[str, int]) -> None:
    adapted = len(output.new_token_ids)
    if not request.counted:
        adapted += request.adapted
        cached = output.prefill_stats.num_cached_tokens if output.prefill_stats is not None else 0
        counters().tokens.labels(*labels, "masked").inc(request.masked)
        # Cached blocks are whole and contiguous: those that reach beyond the activation point are the adapter's.
        counters().cross_adapter.labels(*labels).inc(min(max(cached, 0), request.masked))
    counters().tokens.labels(*labels, "adapted").inc(adapted)


def _wrap_abort(original: Any) -> Any:
    @functools.wraps(original)
    def abort_requests(self: Any, request_ids: Iterable[str], internal: bool) -> Any:
        aborted = original(self, request_ids, internal)
        for request_id in aborted:
            getattr(self, _RUNNING).pop(request_id, None)
        return aborted

    return abort_requests
