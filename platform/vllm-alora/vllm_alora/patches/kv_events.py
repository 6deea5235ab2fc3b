"""Publish the blocks before the activation point as base blocks (``vllm/v1/core/block_pool.py``).

vLLM names the request's adapter on the whole ``BlockStored`` event. One store call of an aLoRA request may span both
kinds of block; it becomes two events, in order, so that any KV-aware router files each block where it belongs.
"""

from __future__ import annotations

import functools
from typing import Any

from vllm_alora.patches.seam import replace


def apply() -> None:
    """Wrap ``BlockPool._build_block_stored_event``."""
    from vllm.v1.core.block_pool import BlockPool

    replace(
        BlockPool,
        "_build_block_stored_event",
        _wrap,
        "request",
        "block_hashes",
        "parent_block_hash",
        "block_size",
        "extra_keys_list",
    )


def _wrap(original: Any) -> Any:
    @functools.wraps(original)
    def build_block_stored_event(self: Any, request: Any, **parts: Any) -> Any:
        event = original(self, request, **parts)
        if event.lora_name is None:
            return event
        base_blocks = _leading_base_blocks(parts["extra_keys_list"])
        if base_blocks == 0:
            return event
        base, adapter = _split(event, base_blocks)
        if adapter is None:
            return base
        self.kv_event_queue.append(base)
        return adapter

    return build_block_stored_event


def _leading_base_blocks(extra_keys_list: list[tuple[Any, ...] | None]) -> int:
    for index, keys in enumerate(extra_keys_list):
        if any(key[0] == "lora" for key in keys or ()):
            return index
    return len(extra_keys_list)


def _split(event: Any, base_blocks: int) -> tuple[Any, Any | None]:
    """Return the event's base part and its adapter part (None if there is none)."""
    from msgspec.structs import replace as replaced

    hashes, tokens, keys = event.block_hashes, event.token_ids, event.extra_keys
    if base_blocks == len(hashes):
        return replaced(event, lora_id=None, lora_name=None), None
    # Groups that skip blocks (sliding windows) still give the tokens of the whole range.
    cut = base_blocks * event.block_size if len(tokens) == len(hashes) * event.block_size else len(tokens)
    base = replaced(
        event,
        block_hashes=hashes[:base_blocks],
        token_ids=tokens[:cut],
        extra_keys=keys[:base_blocks] if keys else None,
        lora_id=None,
        lora_name=None,
    )
    adapter = replaced(
        event,
        block_hashes=hashes[base_blocks:],
        parent_block_hash=hashes[base_blocks - 1],
        token_ids=tokens[cut:],
        extra_keys=keys[base_blocks:] if keys else None,
    )
    return base, adapter
