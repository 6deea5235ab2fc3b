"""Outputs of a modelled engine's steps, and changes of its KV cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from aloraserve.blocks import BlockKey
from aloraserve.engine_model.request import Request
from aloraserve.engine_model.step_stats import StepStats


class BlocksChanged(NamedTuple):
    """Blocks that went, and then blocks that came to be cached.

    Args:
        removed: keys that went, in order: none before its descendants.
        request: whose blocks came.
        chain: keys of its whole blocks from the prompt's first on.
        first: index in the chain of the first that came; all after it came too.
    """

    removed: Sequence[BlockKey]
    request: Request
    chain: Sequence[BlockKey]
    first: int

    @property
    def stored(self) -> Sequence[BlockKey]:
        """Keys that came, each after its parent."""
        return self.chain[self.first :]


class AllBlocksCleared(NamedTuple):
    """Every block went."""


KVCacheEvent = BlocksChanged | AllBlocksCleared


@dataclass(slots=True)
class EngineCoreOutputs:
    """Outputs of the steps that ended in a time.

    Args:
        first_tokens: requests whose first token came, in order.
        finished: requests whose last did, in order.
        kv_events: in order.
        steps: in order; of answers alone, those up to a change are one with their mean.
    """

    first_tokens: list[Request] = field(default_factory=list)
    finished: list[Request] = field(default_factory=list)
    kv_events: list[KVCacheEvent] = field(default_factory=list)
    steps: list[StepStats] = field(default_factory=list)
