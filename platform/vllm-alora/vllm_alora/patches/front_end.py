"""Decide each request in the front end (``vllm/v1/engine/input_processor.py``, ``async_llm.py``, ``llm_engine.py``).

Deciding here gives a clean error to the client (a ``VLLMValidationError`` is an HTTP 400 in ``vllm serve``). The engine
core decides again (``patches/admission.py``).

The front end hears of adapters that are loaded (``add_lora``). It reads what they are from its own disk, off the event
loop; where it does not have the files it asks the engine, whose workers have.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from typing import Any

from vllm_alora.activation import ACTIVATION_KEY
from vllm_alora.adapter_config import Invocation
from vllm_alora.adapters import ADAPTERS
from vllm_alora.announcement import announce
from vllm_alora.decision import (
    absent_means_base,
    decide,
    invocation_tokens,
    refusal,
    refuse_kind_of_request,
    without_reload_mark,
)
from vllm_alora.patches import served_models
from vllm_alora.patches.admission import DESCRIBE, take_description
from vllm_alora.patches.seam import replace
from vllm_alora.setups import refuse_load, refuse_setup
from vllm_alora.shared_prefix import PUBLIC_KEY, is_trusted


def apply() -> None:
    """Wrap ``InputProcessor.process_inputs``, and ``add_lora`` and ``add_request`` of both engines' front ends.

    Raises:
        ValueError: the environment's ``VLLM_ALORA_ABSENT`` is neither "error" nor "base".
    """
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.input_processor import InputProcessor
    from vllm.v1.engine.llm_engine import LLMEngine

    absent_means_base()
    replace(AsyncLLM, "add_lora", _wrap_load_async, "lora_request")
    replace(AsyncLLM, "add_request", _wrap_add_async, "lora_request")
    replace(LLMEngine, "add_lora", _wrap_load, "lora_request")
    replace(LLMEngine, "add_request", _wrap_add, "lora_request")
    replace(InputProcessor, "process_inputs", _wrap, "prompt", "params", "lora_request", "resumable")


def _wrap(original: Any) -> Any:
    @functools.wraps(original)
    def process_inputs(self: Any, *args: Any, **kwargs: Any) -> Any:
        request = original(self, *args, **kwargs)
        _refuse_reserved_key(request)
        if request.lora_request is not None:
            is_alora = _invocation(request.lora_request) is not None
            if is_alora:
                _refuse_unsupported(self.vllm_config, request)
            decide(request, self.tokenizer)
            request.lora_request = without_reload_mark(request.lora_request, is_alora=is_alora)
            announce(request.lora_request, self.tokenizer)
        return request

    return process_inputs


def _invocation(lora_request: Any) -> Invocation | None:
    return invocation_tokens(lora_request)


def _refuse_reserved_key(request: Any) -> None:
    extra_args = getattr(request.sampling_params, "extra_args", None)
    reserved = (ACTIVATION_KEY,) if is_trusted() else (ACTIVATION_KEY, PUBLIC_KEY)
    for key in reserved:
        if extra_args and key in extra_args:
            raise refusal(f"{key!r} is reserved and cannot be set by a request.", "vllm_xargs")


def _refuse_unsupported(config: Any, request: Any) -> None:
    refuse_kind_of_request(request)
    refuse_setup(config, request.lora_request.lora_name)


def _wrap_load(original: Any) -> Any:
    @functools.wraps(original)
    def add_lora(self: Any, lora_request: Any) -> Any:
        refuse_load(self.vllm_config, lora_request)
        loaded = original(self, lora_request)
        ADAPTERS.note_load(lora_request)
        _learn(self, lora_request)
        announce(lora_request, self.input_processor.tokenizer, again=True)
        return loaded

    return add_lora


def _wrap_load_async(original: Any) -> Any:
    @functools.wraps(original)
    async def add_lora(self: Any, lora_request: Any) -> Any:
        await asyncio.to_thread(refuse_load, self.vllm_config, lora_request)
        loaded = await original(self, lora_request)
        ADAPTERS.note_load(lora_request)
        await _learn_async(self, lora_request)
        announce(lora_request, self.input_processor.tokenizer, again=True)
        served_models.apply()
        return loaded

    return add_lora


def _learn(engine: Any, lora_request: Any) -> None:
    """Find out what an adapter is: from the disk here, or else from the engine, whose workers load it."""
    if engine.vllm_config.lora_config is None or _is_known(lora_request):
        return
    client = engine.engine_core
    core = getattr(client, "engine_core", None)  # An engine in this process is called directly.
    take_description(
        lora_request,
        client.call_utility(DESCRIBE, lora_request) if core is None else getattr(core, DESCRIBE)(lora_request),
    )


async def _learn_async(engine: Any, lora_request: Any) -> None:
    if engine.vllm_config.lora_config is None or ADAPTERS.knows(lora_request):
        return
    if not await asyncio.to_thread(_is_known, lora_request):
        take_description(lora_request, await engine.engine_core.call_utility_async(DESCRIBE, lora_request))


def _is_known(lora_request: Any) -> bool:
    invocation_tokens(lora_request)
    return ADAPTERS.knows(lora_request)


def _wrap_add(original: Any) -> Any:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def add_request(self: Any, *args: Any, **kwargs: Any) -> Any:
        lora_request = signature.bind(self, *args, **kwargs).arguments.get("lora_request")
        if lora_request is not None:
            _learn(self, lora_request)
        return original(self, *args, **kwargs)

    return add_request


def _wrap_add_async(original: Any) -> Any:
    signature = inspect.signature(original)

    @functools.wraps(original)
    async def add_request(self: Any, *args: Any, **kwargs: Any) -> Any:
        lora_request = signature.bind(self, *args, **kwargs).arguments.get("lora_request")
        if lora_request is not None:
            await _learn_async(self, lora_request)
        return await original(self, *args, **kwargs)

    return add_request
