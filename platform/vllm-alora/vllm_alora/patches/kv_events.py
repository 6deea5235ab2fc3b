"""Publish the blocks before the activation point as base blocks (``vllm/v1/core/block_pool.py``).

vLLM names the request's adapter on the whole ``BlockStored`` event. One store call of an aLoRA request may span both
kinds of block; it becomes two events, in order, so that any KV-aware router files each block where it belongs. Which
blocks are the base model's follows from the activation point and the blocks' positions, as in their hashes. Other
producers of events are in ``kv_event_producers``.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

from vllm_alora.activation import activation_of
from vllm_alora.patches.seam import replace

_PER_BLOCK = ("extra_keys", "lookahead_token_ids")
"""Fields of ``BlockStored`` with an entry for each block hash (the second since vLLM 0.33)."""


def apply() -> None:
    """Wrap ``BlockPool._build_block_stored_event`` and ``cache_partial_block``."""
    from vllm.v1.core.block_pool import BlockPool

    replace(
        BlockPool,
        "_build_block_stored_event",
        _wrap_build,
        "request",
        "block_hashes",
        "parent_block_hash",
        "start_token_idx",
        "end_token_idx",
        "block_size",
        "extra_keys_list",
    )
    replace(BlockPool, "cache_partial_block", _wrap_partial, "request", "block", "num_tokens")


def leading_base_blocks(base_tokens: int, start: int, blocks: int, block_tokens: int) -> int:
    """Return how many of consecutive blocks end at or before the first token that the adapter changes.

    Args:
        base_tokens: how many of the request's first tokens are the base model's.
        start: position of the first block's first token.
        blocks: number of blocks.
        block_tokens: tokens of each block.
    """
    return max(0, min(blocks, (base_tokens - start) // block_tokens))


def name_as_base(named: Any) -> None:
    """Take the adapter off an event, or off what an event will be made from."""
    named.lora_id = named.lora_name = None


def split(event: Any, hashes: int, tokens: int, parent: Any) -> tuple[Any, Any]:
    """Return an event's base part and its adapter part.

    Args:
        event: a ``BlockStored`` of an aLoRA request.
        hashes: how many of its block hashes are base blocks'.
        tokens: how many of its tokens are theirs.
        parent: hash of the block before the first token of the adapter part.
    """
    from msgspec.structs import replace as replaced

    before: dict[str, Any] = {"block_hashes": event.block_hashes[:hashes], "token_ids": event.token_ids[:tokens]}
    after: dict[str, Any] = {"block_hashes": event.block_hashes[hashes:], "token_ids": event.token_ids[tokens:]}
    for field in _PER_BLOCK:
        entries = getattr(event, field, None)
        if entries:
            before[field], after[field] = entries[:hashes], entries[hashes:]
    base = replaced(event, lora_id=None, lora_name=None, **before)
    return base, replaced(event, parent_block_hash=parent, **after)


def _base_tokens(pool: Any, activation: int) -> int:
    """Return how far the keys of a pool's blocks are the base model's."""
    # Since vLLM 0.33 an EAGLE drafter's engine hashes some tokens after each block with it.
    return activation - int(getattr(pool, "num_hash_lookahead_tokens", 0))


def _wrap_build(original: Any) -> Any:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def build_block_stored_event(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        event = original(self, request, *args, **kwargs)
        activation = activation_of(request.sampling_params)
        if activation is None or event.lora_name is None:
            return event
        call = signature.bind(self, request, *args, **kwargs).arguments
        base, adapter = _parts(self, request, event, call, _base_tokens(self, activation))
        if base is None or adapter is None:
            return base or adapter
        self.kv_event_queue.append(base)
        return adapter

    return build_block_stored_event


def _parts(pool: Any, request: Any, event: Any, call: dict[str, Any], base_tokens: int) -> tuple[Any, Any]:
    """Return the event's base part and its adapter part, None for one that has no block."""
    from vllm.v1.core.kv_cache_utils import maybe_convert_block_hash, resolve_block_hashes

    start, size = call["start_token_idx"], call["block_size"]
    blocks = (call["end_token_idx"] - start) // size
    base_blocks = leading_base_blocks(base_tokens, start, blocks, size)
    if base_blocks == 0:
        return None, event
    first = start // size
    chain = resolve_block_hashes(request.block_hashes, pool.hash_block_size, size)
    # Groups that skip blocks (sliding windows, Mamba) give fewer hashes than their tokens have blocks.
    in_base = [maybe_convert_block_hash(block_hash) for block_hash in chain[first : first + base_blocks]]
    known = set(in_base)
    hashes = sum(block_hash in known for block_hash in event.block_hashes)
    if base_blocks == blocks or hashes == len(event.block_hashes):
        name_as_base(event)
        return event, None
    return split(event, hashes, base_blocks * size, in_base[-1]) if hashes else (None, event)


def _wrap_partial(original: Any) -> Any:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def cache_partial_block(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        queued = len(self.kv_event_queue)
        block_hash = original(self, request, *args, **kwargs)
        activation = activation_of(request.sampling_params)
        if activation is None or len(self.kv_event_queue) == queued:
            return block_hash
        end = signature.bind(self, request, *args, **kwargs).arguments["num_tokens"]
        if end <= _base_tokens(self, activation):
            for event in self.kv_event_queue[queued:]:
                if getattr(event, "lora_name", None) is not None:
                    name_as_base(event)
        return block_hash

    return cache_partial_block
