"""A call in a modelled engine, and what a step of the engine brought."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from aloraserve.blocks import BlockKey
from aloraserve.directory.base import Holding
from aloraserve.simulation.base import SimulatedCall


@dataclass(slots=True, eq=False)
class EngineRequest:
    """A call in an engine, and what became of it.

    Args:
        call: the call.
        sent_s: when it reached the engine.
        cached_tokens: prompt tokens that were not computed; known once it began.
        queued_tokens: tokens to prefill, as expected when it came.
        queued_s: how long that takes alone.
        computed: prompt tokens that are in the cache.
        first_token_s: when the first token was out; NaN before.
        finished_s: when the last was; NaN before.
    """

    call: SimulatedCall
    sent_s: float
    cached_tokens: int = 0
    queued_tokens: int = 0
    queued_s: float = 0.0
    computed: int = 0
    first_token_s: float = math.nan
    finished_s: float = math.nan


@dataclass(slots=True)
class StepResult:
    """What a step brought.

    Args:
        first_tokens: requests whose prefill it ended.
        finished: requests whose answer it ended.
        kv_events: in order, blocks that came to be cached and keys that went.
    """

    first_tokens: list[EngineRequest] = field(default_factory=list)
    finished: list[EngineRequest] = field(default_factory=list)
    kv_events: list[tuple[list[Holding], list[BlockKey]]] = field(default_factory=list)
