"""A fleet that grows and shrinks in simulated time, as a scaler says once a second."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from aloraserve.directory.base import ReplicaState
from aloraserve.scaling.base import Demand, FleetReading, Scaler, ScalingDecision
from aloraserve.scaling.hot_prefixes import FILLED
from aloraserve.simulation.base import RouterFactory, SimulatedCall
from aloraserve.simulation.departures import Departures
from aloraserve.simulation.fleet import FleetSettings, ModelledFleet, RunResult
from aloraserve.simulation.modelled_engine import ModelledRequest
from aloraserve.simulation.modelled_replica import ModelledReplica
from aloraserve.simulation.modelled_warmth import HandOver, ReplicaMemory, WarmStart, is_copy, warm_start
from aloraserve.simulation.platform_router import WAITING_ROOM
from aloraserve.simulation.replica_lives import ReplicaLives, Stage
from aloraserve.simulation.workload import Workload

TICK_S = 1.0


@dataclass(frozen=True, slots=True)
class Growth:
    """How replicas come and go.

    Args:
        initial: replicas at the start.
        start_s: from a decision until a replica is up.
        warm_up_budget_s: then it computes the fleet's hottest prefixes for so long before its first call; 0: it does
            not.
        by_worth: whether the scaler names who leaves; otherwise the newest does, as with Serve and Kubernetes.
        hand_over_s: for so long others compute prefixes that only a leaving one has; 0: they do not.
    """

    initial: int = 1
    start_s: float = 40.0
    warm_up_budget_s: float = 0.0
    by_worth: bool = False
    hand_over_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ScaledResult:
    """Result of a run.

    Args:
        run: what became of the calls.
        replica_s: seconds of replicas, from each decision to the replica's end.
        missed_tokens: computed though a replica that had left had them.
        departures: replicas that left.
        sizes: seconds, running replicas and those that start or leave, whenever one changed.
    """

    run: RunResult
    replica_s: float
    missed_tokens: int
    departures: int
    sizes: list[tuple[float, int, int]]


class ScaledFleet(ModelledFleet):
    """Runs a workload once, on as many replicas as the scaler has.

    A replica that is asked for counts from then on and takes calls once it is up. One that leaves takes no more, is
    known to nobody, and goes when its last answer has ended.

    Args:
        settings: of the fleet; ``replicas`` are the places: the most there may be, and those that are leaving.
        workload: the calls.
        make_router: makes the router, one of the platform's own.
        scaler: decides.
        growth: see :class:`Growth`.
        on_progress: called now and then with how many base calls have been sent.
    """

    def __init__(
        self,
        settings: FleetSettings,
        workload: Workload,
        make_router: RouterFactory,
        scaler: Scaler,
        growth: Growth,
        *,
        on_progress: Callable[[int], None] = lambda sent: None,
    ) -> None:
        super().__init__(settings, workload, make_router, running=growth.initial, on_progress=on_progress)
        self._scaler = scaler
        self._growth = growth
        self._prefill = settings.calibration.prefill.model
        self._block = workload.settings.block_tokens
        self._lives = ReplicaLives.of(settings.replicas, growth.initial)
        self._memories = [self._memory() for _ in range(settings.replicas)]
        self._queued: deque[SimulatedCall] = deque()
        self._departures = Departures()
        self._calls = self._uncached_tokens = self._answer_tokens = self._answers = 0
        self._prefill_s = self._prefill_squares_s2 = 0.0
        self._sizes: list[tuple[float, int, int]] = []
        self._hand_over = HandOver(self._loop, self._block)
        self._handing_over: set[tuple[int, int]] = set()

    def run_scaled(self) -> ScaledResult:
        """Play everything and return what it gave."""
        self._tick()
        run = self.run()
        return ScaledResult(
            run,
            self._lives.total_s(run.ended_s),
            self._departures.missed_blocks * self._block,
            self._departures.count,
            self._sizes,
        )

    def _tick(self) -> None:
        reading = self._reading()
        self._apply(reading, self._scaler.decide(reading))
        running, starting = len(self._lives.at(Stage.RUNNING)), len(self._lives.at(Stage.STARTING))
        size = running, starting + len(self._lives.at(Stage.LEAVING))
        if not self._sizes or self._sizes[-1][1:] != size:
            self._sizes.append((self._loop.now_s, *size))
        self._loop.at(self._loop.now_s + TICK_S, self._tick)

    def _reading(self) -> FleetReading:
        running = sorted(self._lives.at(Stage.RUNNING))
        demand = Demand(
            "gateway",
            self._loop.now_s,
            self._calls,
            self._uncached_tokens,
            self._prefill_s,
            self._prefill_squares_s2,
            self._answer_tokens,
            self._answers,
            waiting=len(self._parked) + len(self._queued),
            held=len(self._parked),
            ended_tokens=self._answer_tokens,
        )
        return FleetReading(
            self._loop.now_s,
            len(running),
            len(self._lives.at(Stage.STARTING)),
            [self._state(place) for place in running],
            [demand],
            ongoing=sum(self._fleet.replicas[place].in_flight for place in running) + demand.waiting,
        )

    def _state(self, place: int) -> ReplicaState:
        replica, saved = self._replicas[place], self._memories[place].saved.rate()
        return ReplicaState(
            str(place),
            "1",
            load=replica.load(),
            resident=replica.resident(),
            saved_s=saved.saved_s,
            saved_elsewhere_s=saved.saved_elsewhere_s,
        )

    def _apply(self, reading: FleetReading, decision: ScalingDecision) -> None:
        now_s = self._loop.now_s
        for _ in range(decision.target - reading.current):
            place = self._lives.ask(now_s)
            if place is not None:
                life = self._lives.lives[place]
                self._loop.at(now_s + self._growth.start_s, partial(self._started, place, life))
        surplus = reading.current - decision.target
        for place in self._lives.at(Stage.STARTING)[: max(surplus, 0)]:
            self._lives.end(place, now_s)
            surplus -= 1
        for place in self._leaving(decision)[: max(surplus, 0)]:
            self._leave(place)

    def _leaving(self, decision: ScalingDecision) -> list[int]:
        """Return the running places, those that leave first first."""
        named = [int(victim) for victim in decision.victims] if self._growth.by_worth else []
        return list(dict.fromkeys([*named, *self._lives.at(Stage.RUNNING)]))

    def _started(self, place: int, life: int) -> None:
        """Compute the hottest prefixes, then take calls."""
        if not self._is_starting(place, life):
            return
        peers = [(len(self._replicas[peer].engine.cache.keys()), self._memories[peer]) for peer in self._fleet.alive]
        warm = warm_start(
            peers,
            self._prefill,
            block_tokens=self._block,
            budget_s=self._growth.warm_up_budget_s,
            max_tokens=int(FILLED * self._settings.kv_tokens_each),
        )
        self._loop.at(self._loop.now_s + warm.seconds, partial(self._join, place, life, warm))

    def _join(self, place: int, life: int, warm: WarmStart) -> None:
        if not self._is_starting(place, life):
            return
        self._lives.stages[place] = Stage.RUNNING
        memory = self._memories[place] = self._memory()
        for keys, prefix in warm.prefixes:
            memory.note(keys, prefix)
        self._replicas[place].restart()
        self._replicas[place].hold([keys for keys, _ in warm.prefixes])
        self._rejoin(place)
        for _ in range(min(len(self._queued), self._room(place))):
            self._send(self._queued.popleft())

    def _memory(self) -> ReplicaMemory:
        return ReplicaMemory(self._loop, self._block)

    def _is_starting(self, place: int, life: int) -> bool:
        return self._lives.stages[place] is Stage.STARTING and self._lives.lives[place] == life

    def _leave(self, place: int) -> None:
        now_s, replica = self._loop.now_s, self._replicas[place]
        self._lives.stages[place] = Stage.LEAVING
        self._fleet.alive.remove(place)
        replica.leave()
        others = [self._replicas[other] for other in self._fleet.alive]
        self._departures.left(now_s, replica.engine.cache.keys(), [other.engine.cache.keys() for other in others])
        if self._growth.hand_over_s > 0:
            staying = {
                str(other): (self._replicas[other], self._memories[other], self._state(other))
                for other in self._fleet.alive
            }
            life = self._lives.lives[place]
            is_waited_for = self._hand_over.leave(
                replica,
                self._memories[place],
                staying,
                budget_s=self._growth.hand_over_s,
                on_end=partial(self._handed_over, place, life),
            )
            if is_waited_for:
                self._handing_over.add((place, life))
        self._end_if_done(place)

    def _handed_over(self, place: int, life: int) -> None:
        self._handing_over.discard((place, life))
        if self._lives.lives[place] == life:
            self._end_if_done(place)

    async def _dispatch(self, call: SimulatedCall) -> None:
        """Have a call wait as in a gateway where all replicas have as many as they take."""
        if self._fleet.alive and not any(self._room(place) > 0 for place in self._fleet.alive):
            self._queued.append(call)
            return
        await super()._dispatch(call)

    def _room(self, place: int) -> int:
        view = self._fleet.replicas[place]
        return WAITING_ROOM * view.max_requests - view.in_flight

    def _submit(self, call: SimulatedCall, index: int) -> ModelledRequest:
        request = super()._submit(call, index)
        now_s, cached = self._loop.now_s, request.num_cached_tokens
        self._calls += 1
        self._uncached_tokens += request.queued_tokens
        self._prefill_s += request.queued_s
        self._prefill_squares_s2 += request.queued_s**2
        others = [self._replicas[other].engine.cache for other in self._fleet.alive if other != index]
        elsewhere = min(max((cache.match(call.keys) for cache in others), default=0) * self._block, cached)
        saved = self._memories[index].saved
        saved.add(self._prefill.seconds(0, cached), self._prefill.seconds(0, elsewhere))
        self._departures.computed(now_s, call.keys[cached // self._block :])
        return request

    def _first_token(self, replica: ModelledReplica, request: ModelledRequest) -> None:
        if not is_copy(request.call):
            self._memories[replica.view.index].note(request.call.keys)
            super()._first_token(replica, request)

    def _finished(self, replica: ModelledReplica, request: ModelledRequest) -> None:
        if is_copy(request.call):
            self._departures.kept(request.call.keys)
            self._hand_over.ended(request.call)
            return
        self._answer_tokens += request.call.output_tokens
        self._answers += 1
        super()._finished(replica, request)
        if self._queued and replica.view.index in self._fleet.alive:
            self._send(self._queued.popleft())
        self._loop.at(self._loop.now_s, partial(self._end_if_done, replica.view.index))

    def _end_if_done(self, place: int) -> None:
        is_handing_over = (place, self._lives.lives[place]) in self._handing_over
        if self._lives.stages[place] is not Stage.LEAVING or is_handing_over:
            return
        if not self._fleet.replicas[place].in_flight:
            self._replicas[place].kill()
            self._lives.end(place, self._loop.now_s)
