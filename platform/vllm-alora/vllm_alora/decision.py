"""The decision for one request with an aLoRA adapter: its activation point, or why it is refused.

Front ends take it, so that clients get clear errors, and every engine core takes it again: requests also come from
front ends that know nothing of aLoRA (vLLM's Rust front end, a ready ``EngineCoreRequest``).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from vllm_alora.activation import ACTIVATION_KEY, NEVER, find_activation, is_index
from vllm_alora.adapter_config import Invocation
from vllm_alora.adapters import ADAPTERS, UnreadableAdapterError

ABSENT_VARIABLE = "VLLM_ALORA_ABSENT"
"""What to do with a prompt that lacks the invocation: "error" (default) or "base", PEFT's silent behaviour."""


def absent_means_base() -> bool:
    """Say whether a prompt without the invocation runs on the base model.

    Raises:
        ValueError: ``VLLM_ALORA_ABSENT`` is neither "error" nor "base".
    """
    value = os.environ.get(ABSENT_VARIABLE, "error")
    if value not in ("error", "base"):
        raise ValueError(f"{ABSENT_VARIABLE} is {value!r}; accepted are 'error' and 'base'")
    return value == "base"


def invocation_tokens(lora_request: Any) -> Invocation | None:
    """Return the invocation tokens of an adapter; None for a plain LoRA, or if this process cannot know.

    Raises:
        VLLMValidationError: the adapter's configuration is no valid one.
    """
    try:
        return ADAPTERS.invocation(lora_request)
    except UnreadableAdapterError as error:
        raise refusal(str(error), "model") from error


def decide(request: Any, tokenizer: Any = None) -> None:
    """Write a request's activation point into its sampling parameters, as its adapter's kind wants it.

    A request of another kind has none. If this process cannot know the kind, what is there stays.

    Args:
        request: an ``EngineCoreRequest``, a ``Request`` or the arguments of one.
        tokenizer: names the invocation's text in the error, None if there is no tokenizer here.

    Raises:
        VLLMValidationError: the request cannot be served exactly; an HTTP 400 in ``vllm serve``.
    """
    lora = request.lora_request
    invocation = None if lora is None else invocation_tokens(lora)
    if invocation is not None:
        refuse_kind_of_request(request)
        write_activation(request.sampling_params, activation_point(request, invocation, tokenizer))
    elif lora is None or ADAPTERS.knows(lora):
        write_activation(request.sampling_params, None)
    else:
        refuse_malformed(request.sampling_params)


def refuse_kind_of_request(request: Any) -> None:
    """Refuse what has no activation point, by name, before anything runs."""
    name = request.lora_request.lora_name
    if request.sampling_params is None:
        raise refusal(f"aLoRA adapter {name!r} generates text; pooling requests cannot use it.", "model")
    if request.prompt_token_ids is None or request.prompt_embeds is not None:
        raise refusal(f"aLoRA adapter {name!r} needs token ids; prompt embeddings have none to find it by.", "prompt")
    if request.resumable:
        raise refusal(f"aLoRA adapter {name!r} cannot be used in a resumable request.", "resumable")


def activation_point(request: Any, invocation: Invocation, tokenizer: Any) -> int:
    """Return where the adapter of a request starts, :data:`NEVER` if it does not and that is allowed."""
    found = find_activation(request.prompt_token_ids, invocation)
    if found is not None:
        return found
    # A front end may have its own policy; the base model's answer harms no other request.
    if absent_means_base() or (request.sampling_params.extra_args or {}).get(ACTIVATION_KEY) == NEVER:
        return NEVER
    raise refusal(
        f"The prompt does not contain the invocation of the aLoRA adapter {request.lora_request.lora_name!r}: "
        f"expected {invocation_text(tokenizer, invocation)} (token ids {list(invocation)}).",
        "prompt",
    )


def write_activation(sampling_params: Any, activation: int | None) -> None:
    """Set the reserved key, or take it away for None."""
    extra_args = getattr(sampling_params, "extra_args", None) or {}
    if activation is not None:
        sampling_params.extra_args = {**extra_args, ACTIVATION_KEY: activation}
    elif ACTIVATION_KEY in extra_args:
        sampling_params.extra_args = {key: value for key, value in extra_args.items() if key != ACTIVATION_KEY}


def refuse_malformed(sampling_params: Any) -> None:
    """Refuse a value of the reserved key that is not an index."""
    extra_args = getattr(sampling_params, "extra_args", None) or {}
    if ACTIVATION_KEY in extra_args and not is_index(extra_args[ACTIVATION_KEY]):
        raise refusal(f"{ACTIVATION_KEY!r} is reserved; its value is not an index.", "vllm_xargs")


def without_reload_mark(lora_request: Any, *, is_alora: bool) -> Any:
    """Return the adapter of a request without ``load_inplace``, if it was loaded again already.

    ``vllm serve`` sends the request object of a reload along with every later call, which has the worker read the files
    again in each step.

    Raises:
        VLLMValidationError: the request itself asks to load an aLoRA adapter.
    """
    if not lora_request.load_inplace:
        return lora_request
    if ADAPTERS.was_reloaded(lora_request):
        from msgspec.structs import replace as replaced

        return replaced(lora_request, load_inplace=False)
    if is_alora:
        raise refusal(
            f"aLoRA adapter {lora_request.lora_name!r} cannot be loaded in place by a generation request: its "
            "blocks would mix two loads. Call add_lora (in vllm serve, /v1/load_lora_adapter) first.",
            "model",
        )
    return lora_request


def invocation_text(tokenizer: Any, invocation: Sequence[int]) -> str:
    """Return the invocation as text, in quotes, if there is a tokenizer."""
    return "its tokens" if tokenizer is None else repr(tokenizer.decode(list(invocation)))


def refusal(message: str, parameter: str) -> Exception:
    """Return vLLM's error for a request that its client can change."""
    from vllm.exceptions import VLLMValidationError

    error: Exception = VLLMValidationError(message, parameter=parameter)
    return error
