"""Events of an engine's KV blocks, free of any engine's own types."""

from __future__ import annotations

from dataclasses import dataclass

EngineHash = bytes | int


@dataclass(frozen=True, slots=True)
class BlocksStored:
    """Consecutive blocks that the engine now has.

    Args:
        hashes: the engine's own hash of each block, in order.
        parent: the engine's hash of the block before the first, or None at a prompt's start.
        token_ids: the blocks' tokens, ``len(hashes) * block_tokens`` of them.
        adapter: name of the adapter version whose effect is in them (:func:`~aloraserve.blocks.keys.version_name`),
            None for the base model's blocks.
        cache_salt: the tenant's salt, if it begins with the first block: at a prompt's start, or behind public blocks.
        base_tokens: how many of the first block's tokens precede the adapter's activation point.
        tier: where they lie ("GPU", "CPU", ...).
    """

    hashes: tuple[EngineHash, ...]
    parent: EngineHash | None
    token_ids: tuple[int, ...]
    adapter: str | None = None
    cache_salt: str | None = None
    tier: str = "GPU"
    base_tokens: int = 0


@dataclass(frozen=True, slots=True)
class BlocksRemoved:
    """Blocks that the engine evicted from a tier."""

    hashes: tuple[EngineHash, ...]
    tier: str = "GPU"


@dataclass(frozen=True, slots=True)
class BlocksCleared:
    """The engine dropped every block."""


EngineEvent = BlocksStored | BlocksRemoved | BlocksCleared


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Events of one engine step, in order; ``sequence`` counts batches from 0 without a gap."""

    sequence: int
    events: tuple[EngineEvent, ...]
