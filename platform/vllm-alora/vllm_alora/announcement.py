"""One line in the log for each load of an adapter: its kind, its invocation, what it leaves alone."""

from __future__ import annotations

import threading
from typing import Any

from cachetools import LRUCache

from vllm_alora.adapters import ADAPTERS, MAX_KNOWN
from vllm_alora.decision import invocation_text

_LOCK = threading.Lock()
_ANNOUNCED: LRUCache[tuple[int, str, str], Any] = LRUCache(MAX_KNOWN)


def announce(lora_request: Any, tokenizer: Any, *, again: bool = False) -> None:
    """Log what an adapter is, once this process knows it.

    Args:
        lora_request: the adapter.
        tokenizer: names the invocation's text, None if there is no tokenizer here.
        again: also if it was announced before, because it has just been loaded again.
    """
    adapter = (lora_request.lora_int_id, lora_request.lora_name, lora_request.lora_path)
    if not ADAPTERS.knows(lora_request):
        return
    with _LOCK:
        if adapter in _ANNOUNCED and not again:
            return
        _ANNOUNCED[adapter] = True
    from vllm.logger import init_logger

    # vLLM configures the handlers of its own loggers only.
    init_logger("vllm.plugins.alora").info("%s", description(lora_request, tokenizer))


def description(lora_request: Any, tokenizer: Any) -> str:
    """Return the line for an adapter."""
    named = f"LoRA adapter {lora_request.lora_name!r} ({lora_request.lora_path})"
    invocation = ADAPTERS.invocation(lora_request)
    if invocation is None:
        return f"{named} is a plain LoRA: it changes every token."
    return (
        f"{named} is an aLoRA: invocation {invocation_text(tokenizer, invocation)} (token ids {list(invocation)}). "
        "Tokens before the invocation's last occurrence in a prompt are the base model's."
    )
