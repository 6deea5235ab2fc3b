"""One run: a router, a fleet of modelled replicas and a workload, from the first call to the last token."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from aloraserve.directory.base import LEASE_TTL_S
from aloraserve.engine_model.calibration import Calibration
from aloraserve.errors import SettingsError
from aloraserve.routing.cost_model import TPOT_OBJECTIVE_S
from aloraserve.routing.scheduling import Scheduling
from aloraserve.simulation.base import Kind, ReplicaView, RouterFactory, RunContext, SimulatedCall, VisibleFleet
from aloraserve.simulation.faults import Fault
from aloraserve.simulation.modelled_engine import Loading, ModelledEngine, ModelledRequest, StepResult
from aloraserve.simulation.modelled_replica import ModelledReplica, ReplicaHooks
from aloraserve.simulation.simulated_loop import SimulatedLoop
from aloraserve.simulation.workload import Workload

MAX_REPLICAS = 10_000
MAX_TPOT_S = 60
MAX_GATEWAYS = 100
SETTLE_S = LEASE_TTL_S
"""After the last call: what it changed has reached everyone by then."""


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """The fleet to model.

    Args:
        calibration: of each engine.
        replicas: how many.
        kv_tokens: of each, the calibration's if None.
        faults: see :mod:`aloraserve.simulation.faults`.
        seed: of the router and of which event batches are lost.
        scheduling: the order in which every engine begins its calls.
        gateways: of the platform's own router; other projects' routers are one process each.
        tpot_objective_s: of the platform's own cost model; 0: none.
        loading: who loads adapters.
    """

    calibration: Calibration
    replicas: int = 8
    kv_tokens: int | None = None
    faults: tuple[Fault, ...] = ()
    seed: int = 0
    scheduling: Scheduling = field(default_factory=Scheduling)
    gateways: int = 1
    tpot_objective_s: float = TPOT_OBJECTIVE_S
    loading: Loading = "platform"

    def __post_init__(self) -> None:
        """Raise SettingsError for a value that makes no sense."""
        if not 1 <= self.replicas <= MAX_REPLICAS:
            raise SettingsError(f"replicas is {self.replicas}; 1 to {MAX_REPLICAS} are accepted")
        if not 0 <= self.tpot_objective_s <= MAX_TPOT_S:
            raise SettingsError(
                f"tpot_objective_ms is {1000 * self.tpot_objective_s:g}; 0 to {1000 * MAX_TPOT_S} are accepted"
            )
        if not 1 <= self.gateways <= MAX_GATEWAYS:
            raise SettingsError(f"gateways is {self.gateways}; 1 to {MAX_GATEWAYS} are accepted")

    @property
    def kv_tokens_each(self) -> int:
        """Tokens that one replica's KV cache has room for."""
        return self.calibration.kv_tokens if self.kv_tokens is None else self.kv_tokens


@dataclass(frozen=True, slots=True)
class CallRecord:
    """Outcome of a call.

    Args:
        kind: of its adapter.
        prompt_tokens: of its prompt.
        cached_tokens: of those, not computed.
        ttft_s: from its arrival to its first token; infinite if there was none.
        e2e_s: from its arrival to its last token; infinite if its replica died in between.
        replica: who answered.
        output_tokens: of its answer.
        session: its conversation.
        first_token_s: when its first token was out, in simulated seconds; NaN if there was none.
    """

    kind: Kind
    prompt_tokens: int
    cached_tokens: int
    ttft_s: float
    e2e_s: float
    replica: int
    output_tokens: int = 1
    session: str = ""
    first_token_s: float = math.nan

    @property
    def tpot_s(self) -> float:
        """Mean time between two tokens of its answer (time per output token); it has several."""
        return (self.e2e_s - self.ttft_s) / (self.output_tokens - 1)


@dataclass(slots=True)
class RunResult:
    """Result of a run.

    Args:
        router: its name.
        records: of all calls, in the order in which they ended.
        requests: calls that each replica got.
        busy_s: how long each replica's engine computed.
        adapter_loads: of the whole fleet.
        resent: calls that were sent again because their replica died before their first token.
        cut: calls whose replica died after it.
        fallbacks: decisions without the directory.
        ended_s: when the last call ended, in simulated seconds.
    """

    router: str
    records: list[CallRecord] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)
    busy_s: list[float] = field(default_factory=list)
    adapter_loads: int = 0
    resent: int = 0
    cut: int = 0
    fallbacks: int = 0
    ended_s: float = 0.0


class ModelledFleet:
    """Runs a workload once.

    Args:
        settings: the fleet.
        workload: the calls.
        make_router: makes the router.
        running: replicas that live from the start, the first ones; all of them if None.
        on_progress: called now and then with how many base calls have been sent.

    Raises:
        SettingsError: a call is longer than a replica's KV cache.
    """

    def __init__(
        self,
        settings: FleetSettings,
        workload: Workload,
        make_router: RouterFactory,
        *,
        running: int | None = None,
        on_progress: Callable[[int], None] = lambda sent: None,
    ) -> None:
        check_fits(workload, settings.kv_tokens_each)
        self._settings = settings
        self._workload = workload
        self._on_progress = on_progress
        self._loop = SimulatedLoop()
        self._base_calls: Iterator[SimulatedCall] = workload.base_calls()
        self._has_more = True
        self._sent = 0
        self._open: dict[int, int] = {}
        self._parked: list[SimulatedCall] = []
        views = [self._view(index) for index in range(settings.replicas)]
        alive = range(settings.replicas if running is None else running)
        self._fleet = VisibleFleet(views, list(alive), workload.settings.block_tokens)
        self._router = make_router(
            RunContext(
                settings.seed,
                self._fleet,
                self._loop,
                settings.faults,
                settings.gateways,
                settings.tpot_objective_s,
            )
        )
        self._result = RunResult(self._router.name)
        chance = random.Random(f"events {settings.seed}")  # noqa: S311
        hooks = ReplicaHooks(self._first_token, self._finished)
        self._replicas = [
            ModelledReplica(
                view, self._loop, self._router, settings.faults, chance, self._new_engine, hooks, view.index in alive
            )
            for view in views
        ]

    @property
    def replicas(self) -> list[ModelledReplica]:
        """The modelled replicas."""
        return self._replicas

    def run(self) -> RunResult:
        """Play everything and return what it gave."""
        for fault in self._settings.faults:
            self._schedule(fault)
        self._next_base_call()
        self._loop.run()
        self._loop.close()
        result = self._result
        for replica in self._replicas:
            replica.end()
        result.requests = [replica.requests for replica in self._replicas]
        result.busy_s = [replica.busy_s for replica in self._replicas]
        result.adapter_loads = sum(replica.adapter_loads for replica in self._replicas)
        result.fallbacks = self._router.fallbacks
        for call in self._parked:
            self._record(call, None, -1)
        return result

    def _view(self, index: int) -> ReplicaView:
        times = self._settings.calibration
        blocks = self._settings.kv_tokens_each // self._workload.settings.block_tokens
        return ReplicaView(index, blocks, times.max_num_seqs, times.adapters.slots, times.max_num_batched_tokens)

    def _new_engine(self, on_step: Callable[[StepResult], None]) -> ModelledEngine:
        return ModelledEngine(
            self._settings.calibration,
            self._loop,
            on_step,
            kv_tokens=self._settings.kv_tokens_each,
            block_tokens=self._workload.settings.block_tokens,
            answer_keys=self._workload.answer_keys,
            scheduling=self._settings.scheduling,
            # As live: as many as may run at once are loaded before the first call.
            resident=self._workload.adapters()[: self._settings.calibration.adapters.slots],
            loading=self._settings.loading,
        )

    def _next_base_call(self) -> None:
        call = next(self._base_calls, None)
        self._has_more = call is not None
        if call is not None:
            self._loop.at(call.arrival_s, lambda: self._arrive(call))

    def _arrive(self, call: SimulatedCall) -> None:
        self._sent += 1
        if self._sent % 64 == 0:
            self._on_progress(self._sent)
        self._open[call.turn] = self._open.get(call.turn, 0) + 1
        self._send(call)
        self._next_base_call()

    def _send(self, call: SimulatedCall) -> None:
        self._loop.spawn(self._dispatch(call))

    async def _dispatch(self, call: SimulatedCall) -> None:
        """Have the router choose and send; with nobody alive the call waits for a restart."""
        while self._fleet.alive:
            index = await self._router.place(call)
            if index in self._fleet.alive:
                self._submit(call, index)
                return
            await self._router.lost(call, index)
        self._parked.append(call)

    def _submit(self, call: SimulatedCall, index: int) -> ModelledRequest:
        view = self._fleet.replicas[index]
        view.in_flight += 1
        view.in_flight_prefill_tokens += call.prompt_tokens
        view.in_flight_blocks += len(call.keys)
        return self._replicas[index].submit(call)

    def _first_token(self, replica: ModelledReplica, request: ModelledRequest) -> None:
        replica.view.in_flight_prefill_tokens -= request.call.prompt_tokens
        replica.observer.first_token(request.call)

    def _finished(self, replica: ModelledReplica, request: ModelledRequest) -> None:
        call, now_s = request.call, self._loop.now_s
        self._close(call, replica)
        replica.observer.finished(call)
        self._record(call, request, replica.view.index)
        if call.kind == "base":
            evaluations = self._workload.evaluations(call, now_s)
            self._open[call.turn] += len(evaluations)
            for evaluation in evaluations:
                self._loop.at(now_s, partial(self._send, evaluation))
        self._end(call)

    def _close(self, call: SimulatedCall, replica: ModelledReplica) -> None:
        view = replica.view
        view.in_flight -= 1
        view.in_flight_blocks -= len(call.keys)

    def _end(self, call: SimulatedCall) -> None:
        call.forget_keys()
        self._open[call.turn] -= 1
        if not self._open[call.turn]:
            del self._open[call.turn]
            self._workload.end_turn(call.turn)
        if not self._open and not self._has_more:
            self._loop.at(self._loop.now_s + SETTLE_S, self._loop.stop)

    def _record(self, call: SimulatedCall, request: ModelledRequest | None, replica: int) -> None:
        """Record what became of a call; None is the request of one that no engine ever got."""
        overhead_s = self._settings.calibration.overhead_s
        ends_s = (request.first_token_s, request.finished_s) if request else (math.nan, math.nan)
        ttft_s, e2e_s = (math.inf if math.isnan(at_s) else at_s - call.arrival_s + overhead_s for at_s in ends_s)
        cached = request.num_cached_tokens if request else 0
        self._result.records.append(
            CallRecord(
                call.kind,
                call.prompt_tokens,
                cached,
                ttft_s,
                e2e_s,
                replica,
                call.output_tokens,
                call.session,
                ends_s[0],
            )
        )
        self._result.ended_s = self._loop.now_s

    def _schedule(self, fault: Fault) -> None:
        if fault.kind == "kill":
            self._loop.at(fault.start_s, lambda: self._kill(int(fault.value)))
        elif fault.kind == "restart":
            self._loop.at(fault.start_s, lambda: self._restart(int(fault.value)))

    def _kill(self, index: int) -> None:
        """Kill a replica: what had not streamed is sent again at once, what had is cut."""
        replica = self._replicas[index]
        if not replica.alive:
            return
        self._fleet.alive.remove(index)
        for request in replica.kill():
            self._loop.spawn(self._fail(request, replica))

    async def _fail(self, request: ModelledRequest, replica: ModelledReplica) -> None:
        call = request.call
        self._close(call, replica)
        if math.isnan(request.first_token_s):
            replica.view.in_flight_prefill_tokens -= call.prompt_tokens
            self._result.resent += 1
            await self._router.lost(call, replica.view.index)
            await self._dispatch(call)
        else:
            self._result.cut += 1
            replica.observer.finished(call)
            self._record(call, request, replica.view.index)
            self._end(call)

    def _restart(self, index: int) -> None:
        replica = self._replicas[index]
        if replica.alive:
            return
        replica.restart()
        self._rejoin(index)

    def _rejoin(self, index: int) -> None:
        """Have a replica take calls, first those that found nobody."""
        self._fleet.alive.append(index)
        self._fleet.alive.sort()
        parked, self._parked = self._parked, []
        for call in parked:
            self._send(call)


def check_fits(workload: Workload, kv_tokens: int) -> None:
    """Raise SettingsError unless a replica's KV cache has room for the longest call."""
    if not 16 <= kv_tokens <= 10**9:
        raise SettingsError(f"kv_tokens is {kv_tokens}; 16 to 1000000000 are accepted")
    settings = workload.settings
    added = settings.invocation_tokens + settings.evaluation_tokens if settings.evaluators else 0
    longest = max(row.input_tokens + row.output_tokens + added for row in workload.rows)
    if longest > kv_tokens // settings.block_tokens * settings.block_tokens:
        raise SettingsError(
            f"kv_tokens is {kv_tokens}; the workload's longest call needs {longest}, in blocks of "
            f"{settings.block_tokens}"
        )
