"""Find each request's activation point in the front end (``vllm/v1/engine/input_processor.py``).

Deciding here gives a clean error to the client (a ``VLLMValidationError`` is an HTTP 400 in ``vllm serve``), and the
scheduler and the workers read the same index.
"""

from __future__ import annotations

import functools
import os
from typing import Any

from vllm_alora.activation import ACTIVATION_KEY, NEVER, find_activation
from vllm_alora.adapters import InvocationTokens
from vllm_alora.patches.seam import replace

ABSENT_VARIABLE = "VLLM_ALORA_ABSENT"
"""What to do with a prompt that lacks the invocation: "error" (default) or "base", PEFT's silent behaviour."""


def apply() -> None:
    """Wrap ``InputProcessor.process_inputs``.

    Raises:
        ValueError: the environment's ``VLLM_ALORA_ABSENT`` is neither "error" nor "base".
    """
    from vllm.v1.engine.input_processor import InputProcessor

    absent_means_base()
    replace(InputProcessor, "process_inputs", _wrap, "prompt", "params", "lora_request", "resumable")


def absent_means_base() -> bool:
    """Say whether a prompt without the invocation runs on the base model."""
    value = os.environ.get(ABSENT_VARIABLE, "error")
    if value not in ("error", "base"):
        raise ValueError(f"{ABSENT_VARIABLE} is {value!r}; accepted are 'error' and 'base'")
    return value == "base"


def _wrap(original: Any) -> Any:
    invocations = InvocationTokens()

    @functools.wraps(original)
    def process_inputs(self: Any, *args: Any, **kwargs: Any) -> Any:
        request = original(self, *args, **kwargs)
        _refuse_reserved_key(request)
        if request.lora_request is not None:
            tokens = invocations.of(request.lora_request)
            if tokens is not None:
                _refuse_unsupported(self.vllm_config, request)
                _activate(request, tokens, self.tokenizer)
        return request

    return process_inputs


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
    if getattr(config.parallel_config, "prefill_context_parallel_size", 1) > 1:
        raise _error(f"aLoRA adapter {name!r} cannot be served with prefill context parallelism.", "model")


def _text(tokenizer: Any, invocation: tuple[int, ...]) -> str:
    return "its tokens" if tokenizer is None else repr(tokenizer.decode(list(invocation)))


def _error(message: str, parameter: str) -> Exception:
    from vllm.exceptions import VLLMValidationError

    error: Exception = VLLMValidationError(message, parameter=parameter)
    return error
