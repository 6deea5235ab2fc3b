"""Find each request's activation point in the front end (``vllm/v1/engine/input_processor.py``).

Deciding here gives a clean error to the client (a ``VLLMValidationError`` is an HTTP 400 in ``vllm serve``), and the
scheduler and the workers read the same index.

The front end also hears of adapters that are loaded again (``AsyncLLM.add_lora``, ``LLMEngine.add_lora``). ``vllm
serve`` keeps the request object of a reload and sends it along with every later call, still with ``load_inplace``,
which has the worker read the files again in each step; here that mark is taken off once the reload was made.
"""

from __future__ import annotations

import functools
import os
from typing import Any

from vllm_alora.activation import ACTIVATION_KEY, NEVER, find_activation
from vllm_alora.adapters import ADAPTERS, UnreadableAdapterError
from vllm_alora.patches.seam import replace

TOKEN_HASHING_CONNECTORS = frozenset(
    {
        "ExampleConnector",
        "SharedStorageConnector",
        "LMCacheConnectorV1",
        "LMCacheMPConnector",
        "FlexKVConnectorV1",
        "HF3FSKVConnector",
    }
)
"""KV connectors that find blocks by their tokens, whatever adapter computed them: right for no adapter at all."""

ABSENT_VARIABLE = "VLLM_ALORA_ABSENT"
"""What to do with a prompt that lacks the invocation: "error" (default) or "base", PEFT's silent behaviour."""


def apply() -> None:
    """Wrap ``InputProcessor.process_inputs`` and the engines' ``add_lora``.

    Raises:
        ValueError: the environment's ``VLLM_ALORA_ABSENT`` is neither "error" nor "base".
    """
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.input_processor import InputProcessor
    from vllm.v1.engine.llm_engine import LLMEngine

    absent_means_base()
    replace(AsyncLLM, "add_lora", _wrap_load, "lora_request")
    replace(LLMEngine, "add_lora", _wrap_load, "lora_request")
    replace(InputProcessor, "process_inputs", _wrap, "prompt", "params", "lora_request", "resumable")


def absent_means_base() -> bool:
    """Say whether a prompt without the invocation runs on the base model."""
    value = os.environ.get(ABSENT_VARIABLE, "error")
    if value not in ("error", "base"):
        raise ValueError(f"{ABSENT_VARIABLE} is {value!r}; accepted are 'error' and 'base'")
    return value == "base"


def _wrap_load(original: Any) -> Any:
    @functools.wraps(original)
    def add_lora(self: Any, lora_request: Any) -> Any:
        ADAPTERS.note_load(lora_request)
        return original(self, lora_request)

    return add_lora


def _wrap(original: Any) -> Any:
    @functools.wraps(original)
    def process_inputs(self: Any, *args: Any, **kwargs: Any) -> Any:
        request = original(self, *args, **kwargs)
        _refuse_reserved_key(request)
        if request.lora_request is not None:
            invocation = _invocation(request.lora_request)
            if invocation is not None:
                _refuse_unsupported(self.vllm_config, request)
                _activate(request, invocation, self.tokenizer)
            _unmark_reload(request, is_alora=invocation is not None)
        return request

    return process_inputs


def _invocation(lora_request: Any) -> tuple[int, ...] | None:
    try:
        return ADAPTERS.invocation(lora_request)
    except UnreadableAdapterError as error:
        raise _error(f"{error}: it says whether the adapter is an aLoRA.", "model") from error


def _unmark_reload(request: Any, *, is_alora: bool) -> None:
    """Take ``load_inplace`` off a request whose adapter was loaded again already."""
    if not request.lora_request.load_inplace:
        return
    if ADAPTERS.was_reloaded(request.lora_request):
        from msgspec.structs import replace as replaced

        request.lora_request = replaced(request.lora_request, load_inplace=False)
    elif is_alora:
        raise _error(
            f"aLoRA adapter {request.lora_request.lora_name!r} cannot be loaded in place by a generation request: its "
            "blocks would mix two loads. Call add_lora (in vllm serve, /v1/load_lora_adapter) first.",
            "model",
        )


def _activate(request: Any, invocation: tuple[int, ...], tokenizer: Any) -> None:
    activation = find_activation(request.prompt_token_ids, invocation)
    if activation is None:
        if not absent_means_base():
            raise _error(
                f"The prompt does not contain the invocation of the aLoRA adapter "
                f"{request.lora_request.lora_name!r}: expected {_text(tokenizer, invocation)} "
                f"(token ids {list(invocation)}).",
                "prompt",
            )
        activation = NEVER
    params = request.sampling_params
    params.extra_args = {**(params.extra_args or {}), ACTIVATION_KEY: activation}


def _refuse_reserved_key(request: Any) -> None:
    extra_args = getattr(request.sampling_params, "extra_args", None)
    if extra_args and ACTIVATION_KEY in extra_args:
        raise _error(f"{ACTIVATION_KEY!r} is reserved and cannot be set by a request.", "vllm_xargs")


def _refuse_unsupported(config: Any, request: Any) -> None:
    """Name what would give wrong answers with an aLoRA adapter, before anything runs."""
    name = request.lora_request.lora_name
    if request.sampling_params is None:
        raise _error(f"aLoRA adapter {name!r} generates text; pooling requests cannot use it.", "model")
    if request.prompt_token_ids is None or request.prompt_embeds is not None:
        raise _error(f"aLoRA adapter {name!r} needs token ids; prompt embeddings have none to find it by.", "prompt")
    if request.resumable:
        raise _error(f"aLoRA adapter {name!r} cannot be used in a resumable request.", "resumable")
    for holder, flag in (
        (config.lora_config, "specialize_active_lora"),
        (config.lora_config, "enable_tower_connector_lora"),
    ):
        if getattr(holder, flag, False):
            raise _error(f"aLoRA adapter {name!r} cannot be served with {flag}; turn it off.", "model")
    if getattr(config.cache_config, "kv_sharing_fast_prefill", False):
        raise _error(f"aLoRA adapter {name!r} cannot be served with kv_sharing_fast_prefill; turn it off.", "model")
    connector = next(iter(_connectors(config) & TOKEN_HASHING_CONNECTORS), None)
    if connector is not None:
        raise _error(
            f"aLoRA adapter {name!r} cannot be served with {connector}, which finds blocks by tokens alone.", "model"
        )
    if getattr(config.parallel_config, "prefill_context_parallel_size", 1) > 1:
        raise _error(f"aLoRA adapter {name!r} cannot be served with prefill context parallelism.", "model")


def _connectors(config: Any) -> set[str]:
    """Return the names of the KV connectors in use, those inside a ``MultiConnector`` included."""
    transfer = getattr(config, "kv_transfer_config", None)
    if transfer is None:
        return set()
    inner = (getattr(transfer, "kv_connector_extra_config", None) or {}).get("connectors") or ()
    return {str(transfer.kv_connector), *(str(connector.get("kv_connector")) for connector in inner)}


def _text(tokenizer: Any, invocation: tuple[int, ...]) -> str:
    return "its tokens" if tokenizer is None else repr(tokenizer.decode(list(invocation)))


def _error(message: str, parameter: str) -> Exception:
    from vllm.exceptions import VLLMValidationError

    error: Exception = VLLMValidationError(message, parameter=parameter)
    return error
