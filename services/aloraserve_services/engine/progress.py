"""The work that an engine has and how fast it is: the load that a replica publishes."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from aloraserve.directory.base import MAX_SETTLED, ReplicaLoad
from aloraserve.engine_model.inter_token_time import InterTokenTime
from aloraserve.engine_model.step_learner import StepLearner
from aloraserve.engine_model.step_model import StepModel
from aloraserve.engine_model.step_stats import StepStats
from aloraserve.routing.prefill_model import PrefillModel
from aloraserve.routing.queue_profile import queue_profile
from aloraserve.routing.scheduling import Scheduling

REMEMBERED_REQUESTS = 33
RATE_TOKENS = 1024
"""Length of the cold prompt at which the rate is told that people read."""
SETTLED_AGAIN_S = 0.3
"""When a call's claim is reported as settled for the second and last time: the claim of one that moved, or that its
gateway made late, may reach the directory some 50 ms after the call reached the engine."""
LEAST_QUEUE_S = 1e-4


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """Facts of an engine that do not change.

    Args:
        max_requests: how many it runs at once.
        kv_tokens: tokens that its KV cache has room for, 0 if unknown.
        adapter_slots: distinct adapters that it runs at once, 0 without adapters.
        step_tokens: tokens that one step computes at most, 0 if unknown.
        scheduling: the order in which it begins the calls that wait.
    """

    max_requests: int
    kv_tokens: int = 0
    adapter_slots: int = 0
    step_tokens: int = 0
    scheduling: Scheduling = field(default_factory=Scheduling)


class Accepted(NamedTuple):
    """What is expected of a request when it is accepted.

    Args:
        prefill_s: of its prompt's uncached tokens, alone; 0 while the engine's speed is not known.
        tokens: of those.
        number_s: its own number, see :mod:`aloraserve.routing.scheduling`.
    """

    prefill_s: float
    tokens: int
    number_s: float


@dataclass(slots=True, eq=False)
class _Running:
    prompt_tokens: int
    held_tokens: int
    adapter: str | None
    accepted_at: float
    number_s: float
    is_given: bool = False
    begun_at: float = math.nan
    generated: int = 0

    @property
    def is_prefilled(self) -> bool:
        return self.generated > 0


class Progress:
    """Counts requests from acceptance to their end.

    Everything that it remembers of past requests is bounded; of running ones it is what Serve lets in.

    Args:
        facts: of the engine.
        learner: knows how long the engine's steps take.
        clock: monotonic seconds.
    """

    def __init__(self, facts: EngineFacts, learner: StepLearner, clock: Callable[[], float] = time.monotonic) -> None:
        self._facts = facts
        self._clock = clock
        self._running: dict[str, _Running] = {}
        self._learner = learner
        self._inter_token = InterTokenTime()
        self._services_s: deque[float] = deque(maxlen=REMEMBERED_REQUESTS)
        self._prefilled_at = self._turn_at = -math.inf
        self._under_way: _Running | None = None
        self._unreported: dict[str, None] = {}
        self._reported: dict[str, float] = {}

    @property
    def requests(self) -> int:
        """How many were accepted and have not ended."""
        return len(self._running)

    def stepped(self, step: StepStats) -> None:
        """Learn from a step that the engine ended."""
        self._learner.add(step)
        self._inter_token.add(step)

    def accept(
        self,
        request_id: str,
        prompt_tokens: int,
        held_tokens: int = 0,
        adapter: str | None = None,
    ) -> Accepted:
        """Note a request; return what is expected of it.

        Args:
            request_id: of the call.
            prompt_tokens: its prompt's length.
            held_tokens: of those, expected to be cached; at least one token is always computed.
            adapter: the key of its adapter's version.
        """
        held_tokens = min(held_tokens, prompt_tokens - 1)
        now, scheduling, model = self._clock(), self._facts.scheduling, self._learner.model()
        prefill_s = model.prefill.seconds(held_tokens, prompt_tokens) if model else 0.0
        number_s = scheduling.number_s(prefill_s, now)
        self._running[request_id] = _Running(prompt_tokens, held_tokens, adapter, now, number_s)
        self._unreported[request_id] = None
        if len(self._unreported) > MAX_SETTLED:
            del self._unreported[next(iter(self._unreported))]
        return Accepted(prefill_s, prompt_tokens - held_tokens, number_s)

    def give(self, request_id: str, number_s: float) -> None:
        """Note that the engine gets a request, with its number in the engine's queue."""
        running = self._running.get(request_id)
        if running is not None:
            running.number_s, running.is_given = number_s, True

    def first_token(self, request_id: str, prefill_s: float = 0.0) -> None:
        """Note that a request's prefill is done, which took ``prefill_s`` from when its turn came."""
        running = self._running.get(request_id)
        if running is None or running.is_prefilled:
            return
        self._prefilled_at = self._clock()
        running.begun_at = self._prefilled_at - prefill_s
        running.generated = 1

    def more_tokens(self, request_id: str, tokens: int) -> None:
        """Note tokens after the first."""
        running = self._running.get(request_id)
        if running is not None and running.is_prefilled:
            running.generated += tokens

    def end(self, request_id: str) -> None:
        """Note that a request ended, however it did."""
        running = self._running.pop(request_id, None)
        if running is not None and running.is_prefilled:
            self._services_s.append(self._clock() - running.begun_at)

    def settled(self) -> tuple[str, ...]:
        """Return the ids of the calls that are to be reported as settled now: each twice, ``SETTLED_AGAIN_S`` apart.

        At most ``MAX_SETTLED``: the claims of older ones end by themselves.
        """
        due = self._clock() - SETTLED_AGAIN_S
        again = []
        for request_id, reported_at in self._reported.items():
            if reported_at > due:
                break
            again.append(request_id)
        return (*again, *self._unreported)[:MAX_SETTLED]

    def acknowledged(self, settled: Sequence[str]) -> None:
        """Note that a heartbeat has carried ids to the directory."""
        now = self._clock()
        for request_id in settled:
            if self._unreported.pop(request_id, False) is None:
                self._reported[request_id] = now
            else:
                self._reported.pop(request_id, None)
        while len(self._reported) > MAX_SETTLED:
            del self._reported[next(iter(self._reported))]

    def active_adapters(self) -> tuple[str, ...]:
        """Return the keys of the adapter versions of accepted requests, sorted."""
        return tuple(sorted({running.adapter for running in self._running.values() if running.adapter is not None}))

    def load(self, kv_usage: float, adapter_load_s: float = 0.0) -> ReplicaLoad:
        """Return the load to publish.

        Args:
            kv_usage: the engine's own share, 0 to 1.
            adapter_load_s: how long loading an adapter takes, 0 if unknown.
        """
        waiting = [running for running in self._running.values() if not running.is_prefilled]
        model = self._learner.model() or StepModel()
        facts, prefill = self._facts, model.prefill
        left_s = self._left_s(prefill, waiting)
        return ReplicaLoad(
            running=len(self._running) - len(waiting),
            waiting=len(waiting),
            queued_prefill_tokens=sum(request.prompt_tokens - request.held_tokens for request in waiting),
            kv_usage=kv_usage,
            prefill_tokens_per_s=RATE_TOKENS / prefill.seconds(0, RATE_TOKENS) if prefill.s_per_token > 0 else 0.0,
            max_requests=facts.max_requests,
            queued_prefill_s=max(LEAST_QUEUE_S, sum(left_s)) if left_s else 0.0,
            prefill_fixed_s=prefill.fixed_s,
            prefill_s_per_token=prefill.s_per_token,
            prefill_s_per_square_token=prefill.s_per_square_token,
            decode_step_s=self._answers_step_s(model),
            decode_fixed_s=model.least_answers_s if self._learner.knows_answers else 0.0,
            kv_tokens=facts.kv_tokens,
            running_tokens=sum(request.prompt_tokens + request.generated for request in self._running.values()),
            adapter_slots=facts.adapter_slots,
            adapter_load_s=adapter_load_s,
            service_s=_median(self._services_s),
            step_tokens=facts.step_tokens,
            prefill_samples=self._learner.quality.samples,
            inter_token_s=self._inter_token.seconds,
            ageing=facts.scheduling.published_ageing,
            queue_profile=self._queue_profile(waiting, left_s),
        )

    def _answers_step_s(self, model: StepModel) -> float:
        """Return how long a step takes that computes the running answers and nothing else; 0 without any."""
        running = [request for request in self._running.values() if request.is_prefilled]
        if not running or not self._learner.knows_answers:
            return 0.0
        return model.seconds(
            StepStats(
                0.0,
                answers=len(running),
                context_tokens=sum(request.prompt_tokens + request.generated for request in running),
                adapter_answers=sum(request.adapter is not None for request in running),
            )
        )

    def _left_s(self, prefill: PrefillModel, waiting: Sequence[_Running]) -> list[float]:
        """Return how long each waiting prefill will take from now on; one of them is under way.

        Together that is never 0 in what is published, which would mean that nothing is known: the last one may take
        longer than it should.
        """
        if prefill.s_per_token <= 0 or not waiting:
            return []
        begun = self._begun(waiting)
        left_s = [prefill.seconds(request.held_tokens, request.prompt_tokens) for request in waiting]
        at = waiting.index(begun)
        left_s[at] = max(0.0, left_s[at] - max(self._clock() - self._turn_at, 0.0))
        return left_s

    def _begun(self, waiting: Sequence[_Running]) -> _Running:
        """Return the one that is under way: the engine began it when the one before it was done."""
        begun = self._under_way
        if begun is None or begun not in waiting:
            begun = self._under_way = min(waiting, key=lambda request: (not request.is_given, request.number_s))
            self._turn_at = max(begun.accepted_at, self._prefilled_at)
        return begun

    def _queue_profile(self, waiting: Sequence[_Running], left_s: Sequence[float]) -> tuple[float, ...]:
        """Return what is left of the waiting prefills by their numbers; nothing overtakes the one that is under way."""
        ageing = self._facts.scheduling.published_ageing
        if not ageing or not left_s:
            return ()
        now_s = ageing * self._clock()
        numbers_s = (0.0 if request is self._under_way else request.number_s - now_s for request in waiting)
        return queue_profile(zip(numbers_s, left_s, strict=True))


def _median(values: Sequence[float] | deque[float]) -> float:
    return statistics.median(values) if values else 0.0
