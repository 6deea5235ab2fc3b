"""The work that an engine has and how fast it is: the load that a replica publishes."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from aloraserve.directory.base import MAX_SETTLED, ReplicaLoad
from aloraserve.routing.prefill_learner import PrefillLearner, PrefillQuality
from aloraserve.routing.prefill_model import PrefillModel
from aloraserve.routing.queue_profile import queue_profile
from aloraserve.routing.scheduling import Scheduling

MIN_MEASURED_TOKENS = 64
REMEMBERED = 9
"""Prefills that the rate is the median of: one that something else on the machine slowed down decides nothing."""
REMEMBERED_STEPS = 33
REMEMBERED_REQUESTS = 33
SETTLED_FOR_S = 1.0
"""How long a call's claim is reported as settled: the claim of one that moved, or that its gateway made late, may reach
the directory after the call reached the engine."""
LEAST_QUEUE_S = 1e-4
FIT_EVERY_S = 1.0
"""With all samples a fit takes up to 15 ms of the event loop."""
FITTED_AT_ONCE = 32
"""The first prefills each teach much, and a fit of few takes little."""


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """Facts of an engine that do not change.

    Args:
        max_requests: how many it runs at once.
        kv_tokens: tokens that its KV cache has room for, 0 if unknown.
        adapter_slots: distinct adapters that it runs at once, 0 without adapters.
        adapter_load_s: how long loading one took, 0 if unknown.
        step_tokens: tokens that one step computes at most, 0 if unknown.
        scheduling: the order in which it begins the calls that wait.
    """

    max_requests: int
    kv_tokens: int = 0
    adapter_slots: int = 0
    adapter_load_s: float = 0.0
    step_tokens: int = 0
    scheduling: Scheduling = field(default_factory=Scheduling)


@dataclass(slots=True, eq=False)
class _Running:
    prompt_tokens: int
    held_tokens: int
    adapter: str | None
    accepted_at: float
    teaches: bool
    number_s: float
    last_token_at: float = math.nan
    generated: int = 0

    @property
    def is_prefilled(self) -> bool:
        return not math.isnan(self.last_token_at)


class Progress:
    """Counts requests from acceptance to their end, and learns from those that ran alone how long prefills take.

    Everything that it remembers of past requests is bounded; of running ones it is what Serve lets in.

    Args:
        facts: of the engine.
        clock: monotonic seconds.
    """

    def __init__(self, facts: EngineFacts, clock: Callable[[], float] = time.monotonic) -> None:
        self._facts = facts
        self._clock = clock
        self._running: dict[str, _Running] = {}
        self._learner = PrefillLearner()
        self._learned: PrefillModel | None = None
        self._taught = 0
        self._fitted_at = -math.inf
        self._rates: deque[float] = deque(maxlen=REMEMBERED)
        self._steps_s: deque[float] = deque(maxlen=REMEMBERED_STEPS)
        self._services_s: deque[float] = deque(maxlen=REMEMBERED_REQUESTS)
        self._prefilled_at = self._begun_at = -math.inf
        self._under_way: _Running | None = None
        self._settled: dict[str, float] = {}

    def accept(
        self,
        request_id: str,
        prompt_tokens: int,
        held_tokens: int = 0,
        adapter: str | None = None,
        *,
        is_resident: bool = True,
    ) -> int:
        """Note a request; return its priority in the engine, see :mod:`aloraserve.routing.scheduling`.

        Args:
            request_id: of the call.
            prompt_tokens: its prompt's length.
            held_tokens: of those, expected to be cached; at least one token is always computed.
            adapter: the name of its adapter.
            is_resident: whether the adapter is loaded; if not, the time to the first token is not the prefill's alone.
        """
        for other in self._running.values():
            other.teaches = False
        held_tokens = min(held_tokens, prompt_tokens - 1)
        teaches = is_resident and not self._running
        now, scheduling = self._clock(), self._facts.scheduling
        model = self._prefill_model()
        prefill_s = model.seconds(held_tokens, prompt_tokens) if model else 0.0
        number_s = scheduling.number_s(prefill_s, now)
        self._running[request_id] = _Running(prompt_tokens, held_tokens, adapter, now, teaches, number_s)
        self._settled[request_id] = math.inf
        if len(self._settled) > MAX_SETTLED:
            del self._settled[next(iter(self._settled))]
        return scheduling.priority(prefill_s, now)

    def first_token(self, request_id: str, cached_tokens: int, prompt_tokens: int) -> None:
        """Note that a request's prefill is done, of which the engine had ``cached_tokens``."""
        running = self._running.get(request_id)
        if running is None or running.is_prefilled:
            return
        running.last_token_at = self._prefilled_at = self._clock()
        running.generated = 1
        prefilled = prompt_tokens - cached_tokens
        if running.teaches and prefilled > 0:
            seconds = max(running.last_token_at - running.accepted_at, 1e-6)
            self._learner.add(cached_tokens, prompt_tokens, seconds)
            self._taught += 1
            if prefilled >= MIN_MEASURED_TOKENS:
                self._rates.append(prefilled / seconds)

    def more_tokens(self, request_id: str, tokens: int, choice: int = 0) -> None:
        """Note tokens after the first; the gaps of one choice measure the engine's steps."""
        running = self._running.get(request_id)
        if running is None or tokens < 1:
            return
        running.generated += tokens
        if choice == 0 and running.is_prefilled:
            now = self._clock()
            self._steps_s.append((now - running.last_token_at) / tokens)
            running.last_token_at = now

    def end(self, request_id: str) -> None:
        """Note that a request ended, however it did."""
        running = self._running.pop(request_id, None)
        if running is not None and running.is_prefilled:
            self._services_s.append(self._clock() - running.accepted_at)

    def settled(self) -> tuple[str, ...]:
        """Return the ids of the calls that came since the last heartbeat that reached the directory, and just before.

        At most ``MAX_SETTLED``: the claims of older ones end by themselves.
        """
        return tuple(self._settled)

    def acknowledged(self, settled: Sequence[str]) -> None:
        """Note that a heartbeat has carried ids to the directory; they are reported again for ``SETTLED_FOR_S``."""
        now = self._clock()
        for request_id in settled:
            reported_at = self._settled.get(request_id, now)
            if reported_at == math.inf:
                self._settled[request_id] = now
            elif now - reported_at >= SETTLED_FOR_S:
                self._settled.pop(request_id, None)

    def active_adapters(self) -> tuple[str, ...]:
        """Return the names of the adapters of accepted requests, sorted."""
        return tuple(sorted({running.adapter for running in self._running.values() if running.adapter is not None}))

    def load(self, kv_usage: float) -> ReplicaLoad:
        """Return the load to publish; ``kv_usage`` is the engine's own share, 0 to 1."""
        waiting = [running for running in self._running.values() if not running.is_prefilled]
        model = self._prefill_model()
        facts = self._facts
        left_s = self._left_s(model, waiting)
        return ReplicaLoad(
            running=len(self._running) - len(waiting),
            waiting=len(waiting),
            queued_prefill_tokens=sum(request.prompt_tokens - request.held_tokens for request in waiting),
            kv_usage=kv_usage,
            prefill_tokens_per_s=_median(self._rates),
            max_requests=facts.max_requests,
            queued_prefill_s=max(LEAST_QUEUE_S, sum(left_s)) if left_s else 0.0,
            prefill_fixed_s=model.fixed_s if model else 0.0,
            prefill_s_per_token=model.s_per_token if model else 0.0,
            prefill_s_per_square_token=model.s_per_square_token if model else 0.0,
            decode_step_s=_median(self._steps_s),
            kv_tokens=facts.kv_tokens,
            running_tokens=sum(request.prompt_tokens + request.generated for request in self._running.values()),
            adapter_slots=facts.adapter_slots,
            adapter_load_s=facts.adapter_load_s,
            service_s=_median(self._services_s),
            step_tokens=facts.step_tokens,
            prefill_samples=self._learner.quality.samples,
            ageing=facts.scheduling.published_ageing,
            queue_profile=self._queue_profile(waiting, left_s),
        )

    @property
    def prefill(self) -> tuple[PrefillModel | None, PrefillQuality]:
        """The prefill model as far as it is learned, and how well."""
        return self._prefill_model(), self._learner.quality

    def _prefill_model(self) -> PrefillModel | None:
        now = self._clock()
        if self._taught <= FITTED_AT_ONCE or now - self._fitted_at >= FIT_EVERY_S:
            self._learned, self._fitted_at = self._learner.model(), now
        return self._learned

    def _left_s(self, model: PrefillModel | None, waiting: Sequence[_Running]) -> list[float]:
        """Return how long each waiting prefill will take from now on; one of them is under way.

        Together that is never 0 in what is published, which would mean that nothing is known: the last one may take
        longer than it should.
        """
        if model is None or not waiting:
            return []
        begun = self._begun(waiting)
        left_s = [model.seconds(request.held_tokens, request.prompt_tokens) for request in waiting]
        at = waiting.index(begun)
        left_s[at] = max(0.0, left_s[at] - max(self._clock() - self._begun_at, 0.0))
        return left_s

    def _begun(self, waiting: Sequence[_Running]) -> _Running:
        """Return the one that is under way: the engine began it when the one before it was done."""
        begun = self._under_way
        if begun is None or begun not in waiting:
            begun = self._under_way = min(waiting, key=lambda request: request.number_s)
            self._begun_at = max(begun.accepted_at, self._prefilled_at)
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
