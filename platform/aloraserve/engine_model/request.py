"""A request of a modelled engine, with the names of vLLM's own (``v1/request.py``)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from aloraserve.blocks import BlockKey

RequestId = str | int


class RequestStatus(Enum):
    """Where a request is; one that is preempted waits to be computed again."""

    WAITING = auto()
    RUNNING = auto()
    PREEMPTED = auto()
    FINISHED = auto()
    FINISHED_ABORTED = auto()

    @property
    def is_finished(self) -> bool:
        """Whether the scheduler is done with the request."""
        return self in (RequestStatus.FINISHED, RequestStatus.FINISHED_ABORTED)


def no_keys() -> Sequence[BlockKey]:
    """Return no keys: those of an answer that nobody goes on from."""
    return ()


@dataclass(slots=True, eq=False, kw_only=True)
class Request:
    """A prompt and one answer; a call for several choices is as many requests, as in vLLM.

    Args:
        request_id: unlike those of all other requests in the engine; ids of one engine are all text or all numbers.
        arrival_s: when it reached the engine.
        prompt_keys: of the prompt's whole blocks, a chain.
        num_prompt_tokens: at least 1.
        max_tokens: length of its answer, at least 1: a model of an engine knows it from the start.
        adapter: name of its adapter, None for the base model.
        priority: the lowest begins first, see :mod:`aloraserve.routing.scheduling`.
        output_keys: gives the keys of the blocks that the whole answer fills, which go on from the prompt's.

    Attributes:
        num_output_tokens: generated before it was last scheduled, and when its prefill ended;
            :meth:`~aloraserve.engine_model.scheduler.Scheduler.num_output_tokens` knows more.
        num_computed_tokens: whose KV is in the cache, while it is prefilled.
        num_cached_tokens: prompt tokens that were not computed; known once it was scheduled first.
        num_keyed_blocks: of its blocks, those that have a key.
        scheduled_s: when its prefill began; NaN before.
        first_token_s: when its first token was out; NaN before.
        finished_s: when its last was; NaN before, and of one that was aborted.
        end_step: the step that computes its last token, once it decodes.
    """

    request_id: RequestId
    arrival_s: float
    prompt_keys: Sequence[BlockKey]
    num_prompt_tokens: int
    max_tokens: int
    adapter: str | None = None
    priority: int = 0
    output_keys: Callable[[], Sequence[BlockKey]] = no_keys
    status: RequestStatus = RequestStatus.WAITING
    num_output_tokens: int = 0
    num_computed_tokens: int = 0
    num_cached_tokens: int = 0
    num_keyed_blocks: int = 0
    scheduled_s: float = math.nan
    first_token_s: float = math.nan
    finished_s: float = math.nan
    end_step: int = -1

    def __post_init__(self) -> None:
        """Raise ValueError for a length that makes no sense."""
        if self.num_prompt_tokens < 1 or self.max_tokens < 1:
            raise ValueError(
                f"request {self.request_id!r} has {self.num_prompt_tokens} prompt tokens and {self.max_tokens} to "
                "generate; at least 1 of each is needed"
            )

    @property
    def rank(self) -> tuple[int, float, RequestId]:
        """Its place among others by priority; of equal ones the first that came is first, as in vLLM."""
        return self.priority, self.arrival_s, self.request_id

    @property
    def num_tokens(self) -> int:
        """Tokens to compute before the next one comes: the prompt, and what was generated before a preemption."""
        return self.num_prompt_tokens + self.num_output_tokens


def choice_ids(request_id: str, choices: int) -> list[str]:
    """Return the ids of the requests that a call becomes, as vLLM's ``ParentRequest`` names its children."""
    return [request_id] if choices == 1 else [f"{index}_{request_id}" for index in range(choices)]
