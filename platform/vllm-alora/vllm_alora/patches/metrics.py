"""Count what aLoRA does, at vLLM's own ``/metrics`` (``vllm/v1/engine/output_processor.py``).

All counting is in the front end, which serves the endpoint: it knows each request's activation point and sees, with the
first output, how much of the prompt was cached.

==========================================  =================================================================
counter                                     meaning
==========================================  =================================================================
vllm_alora_requests_total{kind}             requests by kind: base, lora, alora
vllm_alora_tokens_total{effect}             tokens of aLoRA requests: masked (before the activation point, the
                                            base model's), adapted (from it on, generated ones included)
vllm_alora_cross_adapter_cached_tokens_total  prompt tokens of aLoRA requests found in blocks keyed as the base
                                            model's: what a cache keyed by adapter would not have shared
==========================================  =================================================================
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vllm_alora.activation import activation_of
from vllm_alora.patches.seam import replace

_RUNNING = "_alora_running"


def apply() -> None:
    """Wrap ``OutputProcessor.__init__``, ``add_request``, ``process_outputs`` and ``abort_requests``."""
    from vllm.v1.engine.output_processor import OutputProcessor

    replace(OutputProcessor, "__init__", _wrap_init)
    replace(OutputProcessor, "add_request", _wrap_add, "request")
    replace(OutputProcessor, "process_outputs", _wrap_outputs, "engine_core_outputs")
    replace(OutputProcessor, "abort_requests", _wrap_abort, "request_ids", "internal")


class Counters:
    """The counters of this process, in prometheus-client's default registry, which vLLM serves."""

    def __init__(self) -> None:
        from prometheus_client import Counter

        self.requests = Counter("vllm_alora_requests", "Requests by kind of adapter.", ["kind"])
        self.tokens = Counter(
            "vllm_alora_tokens", "Tokens of aLoRA requests by whether the adapter changed them.", ["effect"]
        )
        self.cross_adapter = Counter(
            "vllm_alora_cross_adapter_cached_tokens",
            "Prompt tokens of aLoRA requests found in blocks keyed as the base model's.",
        )
        for kind in ("base", "lora", "alora"):
            self.requests.labels(kind)
        for effect in ("masked", "adapted"):
            self.tokens.labels(effect)


@functools.cache
def counters() -> Counters:
    """Return this process's counters; they exist only where a front end does."""
    return Counters()


@dataclass(slots=True)
class _Running:
    """An aLoRA request: its prompt's tokens before and from the activation point on; counted with the first output."""

    masked: int
    adapted: int
    counted: bool = False


def _wrap_init(original: Any) -> Any:
    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        setattr(self, _RUNNING, {})
        counters()

    return init


def _wrap_add(original: Any) -> Any:
    @functools.wraps(original)
    def add_request(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        is_update = request.request_id in self.request_states
        added = original(self, request, *args, **kwargs)
        # Of the choices of one call (``n``) each is a request of its own here; the first one counts the call.
        index = args[2] if len(args) > 2 else kwargs.get("request_index", 0)
        if not is_update:
            _note(getattr(self, _RUNNING), request, is_first_choice=index == 0)
        return added

    return add_request


def _note(running: dict[str, _Running], request: Any, *, is_first_choice: bool) -> None:
    activation = activation_of(request.sampling_params)
    if is_first_choice:
        counters().requests.labels(_kind(request, activation)).inc()
    if activation is not None:
        prompt = len(request.prompt_token_ids)
        masked = min(activation, prompt)
        running[request.request_id] = _Running(masked, prompt - masked)


def _kind(request: Any, activation: int | None) -> str:
    if activation is not None:
        return "alora"
    return "base" if request.lora_request is None else "lora"


def _wrap_outputs(original: Any) -> Any:
    @functools.wraps(original)
    def process_outputs(self: Any, engine_core_outputs: Any, *args: Any, **kwargs: Any) -> Any:
        running = getattr(self, _RUNNING)
        if running:
            for output in engine_core_outputs:
                request = running.get(output.request_id)
                if request is not None:
                    _count(request, output)
                    if output.finish_reason is not None:
                        del running[output.request_id]
        processed = original(self, engine_core_outputs, *args, **kwargs)
        # A stop string ends a request here; the engine core hears of it as an abort.
        for request_id in processed.reqs_to_abort if running else ():
            running.pop(request_id, None)
        return processed

    return process_outputs


def _count(request: _Running, output: Any) -> None:
    adapted = len(output.new_token_ids)
    if not request.counted:
        request.counted = True
        adapted += request.adapted
        cached = output.prefill_stats.num_cached_tokens if output.prefill_stats is not None else 0
        counters().tokens.labels("masked").inc(request.masked)
        # Cached blocks are whole and contiguous: those that reach beyond the activation point are the adapter's.
        counters().cross_adapter.inc(min(max(cached, 0), request.masked))
    counters().tokens.labels("adapted").inc(adapted)


def _wrap_abort(original: Any) -> Any:
    @functools.wraps(original)
    def abort_requests(self: Any, request_ids: Iterable[str], internal: bool) -> Any:
        aborted = original(self, request_ids, internal)
        for request_id in aborted:
            getattr(self, _RUNNING).pop(request_id, None)
        return aborted

    return abort_requests
