"""Decide each request in the engine core (``vllm/v1/request.py``, ``vllm/v1/engine/core.py``).

Every way into an engine makes a ``Request`` here, whatever front end it comes from: its activation point is found
again, and the generation of its blocks is pinned, before its first block is hashed. A request that is refused ends
alone; the engine goes on.

What an adapter is, is read from the files that the core sees. An adapter that it does not see is asked of the workers,
once, by the core's own thread: only they know adapters from memory, and they fetch those from a hub.
"""

from __future__ import annotations

import functools
import inspect
from types import SimpleNamespace
from typing import Any

from vllm_alora.activation import activation_of
from vllm_alora.adapter_config import AdapterConfigError
from vllm_alora.adapter_files import AdapterFacts, local_folder, read_facts, weights_digest
from vllm_alora.adapters import ADAPTERS
from vllm_alora.decision import decide, invocation_tokens, refusal, without_reload_mark
from vllm_alora.patches.seam import replace
from vllm_alora.patches.worker_lora import loaded_invocation
from vllm_alora.reloads import RELOADS, generation_of
from vllm_alora.setups import refuse_setup

DESCRIBE = "describe_alora_adapter"
"""Name of the engine core's utility call that says what an adapter is."""
_ABSENT = {"prompt_embeds": None, "resumable": False}


def apply() -> None:
    """Wrap ``Request.__init__``, ``EngineCore.preprocess_add_request`` and ``add_request``; add the utility call."""
    from vllm.v1.engine.core import EngineCore
    from vllm.v1.request import Request

    replace(
        Request,
        "__init__",
        _wrap_init,
        "prompt_token_ids",
        "sampling_params",
        "lora_request",
        "prompt_embeds",
        "resumable",
    )
    replace(EngineCore, "preprocess_add_request", _wrap_preprocess, "request")
    replace(EngineCore, "add_request", _wrap_add, "request")
    setattr(EngineCore, DESCRIBE, _describe)


def _wrap_init(original: Any) -> Any:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        decide(SimpleNamespace(**{**_ABSENT, "lora_request": None, **signature.bind(self, *args, **kwargs).arguments}))
        original(self, *args, **kwargs)
        if self.lora_request is not None:
            is_alora = invocation_tokens(self.lora_request) is not None
            self.lora_request = without_reload_mark(self.lora_request, is_alora=is_alora)
            generation_of(self)

    return init


def _wrap_preprocess(original: Any) -> Any:
    @functools.wraps(original)
    def preprocess_add_request(self: Any, request: Any) -> Any:
        _refuse_setup(self, request)
        return original(self, request)

    return preprocess_add_request


def _refuse_setup(core: Any, request: Any) -> None:
    adapter = request.lora_request
    if adapter is not None and invocation_tokens(adapter) is not None:
        refuse_setup(core.vllm_config, adapter.lora_name)


def _wrap_add(original: Any) -> Any:
    @functools.wraps(original)
    def add_request(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        from vllm.exceptions import VLLMValidationError

        try:
            _admit(self, request)
        except VLLMValidationError as error:
            return _end(self, request, error)
        return original(self, request, *args, **kwargs)

    return add_request


def _admit(core: Any, request: Any) -> None:
    """Decide a request once more if its adapter was not known when it was made."""
    adapter = request.lora_request
    if adapter is None or ADAPTERS.knows(adapter):
        return
    ask_workers(core, adapter)
    _refuse_setup(core, request)
    if activation_of(request.sampling_params) is not None and ADAPTERS.invocation(adapter) is None:
        raise refusal(f"LoRA adapter {adapter.lora_name!r} is an aLoRA for its front end and none here.", "model")
    decide(request)
    request.block_hashes.clear()
    request.update_block_hashes()


def _end(core: Any, request: Any, error: Exception) -> None:
    """End a request with an error; in an engine of the caller's own process, raise it."""
    if not hasattr(core, "_send_error_outputs_to_client"):
        raise error
    from vllm.logger import init_logger

    init_logger("vllm.plugins.alora").error("Request %s is refused: %s", request.request_id, error)
    core._send_error_outputs_to_client([request.request_id], request.client_index)


def ask_workers(core: Any, adapter: Any) -> None:
    """Learn of the workers what an adapter is.

    Raises:
        VLLMValidationError: they cannot serve it, or do not agree.
    """
    first, *others = core.model_executor.collective_rpc(read_in_worker, args=(adapter,))
    if any(other != first for other in others):
        raise refusal(f"LoRA adapter {adapter.lora_name!r}: the engine's workers see different files of it.", "model")
    is_loaded, facts, problem = first
    if problem is not None:
        raise refusal(f"LoRA adapter {adapter.lora_name!r} cannot be served: {problem}", "model")
    if facts is None and not is_loaded:
        raise refusal(
            f"adapter_config.json of {adapter.lora_name!r} cannot be read, and the adapter is not loaded: "
            f"{adapter.lora_path}",
            "model",
        )
    ADAPTERS.learn(adapter, None if facts is None else facts.invocation)
    RELOADS.learn(adapter, None if facts is None else facts.weights)


def read_in_worker(worker: Any, adapter: Any) -> tuple[bool, AdapterFacts | None, str | None]:
    """Return, in a worker, whether it has an adapter, what it is, and what is wrong with its files."""
    loaded = loaded_invocation(worker, adapter.lora_int_id)
    if loaded is not None:
        return True, AdapterFacts(loaded[0], weights_digest(adapter)), None
    is_loaded = adapter.lora_int_id in worker.list_loras()
    if not is_loaded and local_folder(adapter) is None:
        adapter = _fetched(adapter)
    try:
        return is_loaded, read_facts(adapter), None
    except AdapterConfigError as error:
        return is_loaded, None, str(error)


def _fetched(adapter: Any) -> Any:
    """Return an adapter with its path on this machine; a hub's is downloaded, as its load would do."""
    from msgspec.structs import replace as replaced
    from vllm.lora.utils import get_adapter_absolute_path

    try:
        return replaced(adapter, lora_path=get_adapter_absolute_path(adapter.lora_path))
    except (OSError, ValueError):
        return adapter


def _describe(self: Any, lora_request: Any) -> dict[str, Any]:
    """Tell a front end that lacks an adapter's files what it is."""
    import msgspec
    from vllm.exceptions import VLLMValidationError
    from vllm.lora.request import LoRARequest

    adapter = lora_request if isinstance(lora_request, LoRARequest) else msgspec.convert(lora_request, LoRARequest)
    try:
        invocation = invocation_tokens(adapter)
        if not ADAPTERS.knows(adapter):
            ask_workers(self, adapter)
            invocation = invocation_tokens(adapter)
    except VLLMValidationError as error:
        return {"problem": str(error)}
    return {"invocation": None if invocation is None else list(invocation)}


def take_description(adapter: Any, described: dict[str, Any]) -> None:
    """Remember, in a front end, what the engine core said.

    Raises:
        VLLMValidationError: the adapter cannot be served.
    """
    if "problem" in described:
        raise refusal(described["problem"], "model")
    invocation = described["invocation"]
    ADAPTERS.learn(adapter, None if invocation is None else tuple(invocation))
