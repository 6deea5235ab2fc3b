"""One modelled replica in the fleet: its engine, its life, and what it reports of itself."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from aloraserve.simulation.base import ReplicaView, RouterModel, SimulatedCall
from aloraserve.simulation.events import EventQueue
from aloraserve.simulation.faults import Fault
from aloraserve.simulation.modelled_engine import KvEvents, ModelledEngine, ModelledRequest, StepResult
from aloraserve.simulation.platform_router import PlatformRouter

HEARTBEAT_S = 0.15
"""As the replicas of the platform do."""
NewEngine = Callable[[Callable[[StepResult], None]], ModelledEngine]
"""Makes an engine from what is called with what each of its steps brought."""


@dataclass(slots=True)
class ReplicaHooks:
    """What the fleet does at a replica's news.

    Args:
        first_token: called with a request whose first token is out.
        finished: called with a request whose last token is out.
    """

    first_token: Callable[[ModelledReplica, ModelledRequest], None]
    finished: Callable[[ModelledReplica, ModelledRequest], None]


@dataclass(eq=False)
class ModelledReplica:
    """See the module's docstring.

    Reports leave when something changed and the last one is a heartbeat old, and as long as calls wait. KV events leave
    at the end of each step; a delay keeps their order.

    Args:
        view: what routers see; reports update its second part.
        queue: simulated time.
        router: who is told.
        faults: of events.
        chance: decides which event batches are lost.
        new_engine: makes an engine with an empty cache.
        hooks: see :class:`ReplicaHooks`.
    """

    view: ReplicaView
    queue: EventQueue
    router: RouterModel
    faults: Sequence[Fault]
    chance: random.Random
    new_engine: NewEngine
    hooks: ReplicaHooks
    alive: bool = True
    requests: int = 0
    adapter_loads: int = 0
    busy_s: float = 0.0
    engine: ModelledEngine = field(init=False)
    _life: int = 0
    _beat_due: bool = False
    _beaten_s: float = -HEARTBEAT_S
    _lost: KvEvents = field(default_factory=list)

    def __post_init__(self) -> None:
        """Start the engine and announce the replica."""
        self.engine = self.new_engine(self._stepped)
        self._beat(self._life)

    def submit(self, call: SimulatedCall) -> None:
        """Take in a call."""
        self.requests += 1
        self.engine.submit(call)
        self.report()

    def kill(self) -> list[ModelledRequest]:
        """Die now; return the requests that die with it."""
        lost = self.engine.kill()
        self._count_engine()
        self.alive = False
        self._life += 1
        self._lost = []
        return lost

    def restart(self) -> None:
        """Live again, with an empty cache."""
        self.engine = self.new_engine(self._stepped)
        self.alive = True
        self._beat_due = False
        if isinstance(self.router, PlatformRouter):
            self.router.restarted(self.view.index, self.queue.now_s)
        self._beat(self._life)

    def end(self) -> None:
        """Count what the engine did, when the run is over."""
        if self.alive:
            self._count_engine()

    def report(self) -> None:
        """Have a heartbeat leave as soon as one may."""
        if not self._beat_due and self.alive:
            self._beat_due = True
            life = self._life
            self.queue.at(self._beaten_s + HEARTBEAT_S, lambda: self._beat(life))

    def _count_engine(self) -> None:
        scheduler = self.engine.scheduler
        self.adapter_loads += scheduler.adapter_slots.loads
        self.busy_s += scheduler.busy_s

    def _stepped(self, result: StepResult) -> None:
        self._tell(result)
        self.report()

    def _tell(self, result: StepResult) -> None:
        if result.kv_events:
            self._send(result.kv_events)
        for request in result.first_tokens:
            self.hooks.first_token(self, request)
        for request in result.finished:
            self.hooks.finished(self, request)

    def _send(self, events: KvEvents) -> None:
        now_s = self.queue.now_s
        delay_s = sum(one.value for one in self.faults if one.kind == "event-delay" and one.is_on(now_s))
        loss = max((one.value for one in self.faults if one.kind == "event-loss" and one.is_on(now_s)), default=0.0)
        is_lost = loss > 0 and self.chance.random() < loss
        if delay_s <= 0:
            self._deliver(events, is_lost, self._life)
            return
        life = self._life
        self.queue.at(now_s + delay_s, lambda: self._deliver(events, is_lost, life))

    def _deliver(self, events: KvEvents, is_lost: bool, life: int) -> None:
        """Hand on a batch; the platform's replicas have a lost one replayed when the next shows the gap."""
        if life != self._life or not self.alive:
            return
        now_s, index = self.queue.now_s, self.view.index
        if isinstance(self.router, PlatformRouter):
            if not self.router.needs_reports:
                return
            self._lost += events
            if not is_lost:
                events, self._lost = self._lost, []
                for stored, removed in events:
                    self.router.hold(index, stored, removed, now_s)
        elif not is_lost:
            for stored, removed in events:
                self.router.observe(index, [one.key for one in stored], removed, now_s)

    def _beat(self, life: int) -> None:
        if life != self._life or not self.alive:
            return
        engine, view, now_s = self.engine, self.view, self.queue.now_s
        scheduler = engine.scheduler
        self._beat_due = False
        self._beaten_s = now_s
        view.running, view.waiting = len(scheduler.running), scheduler.num_waiting
        view.pending_prefill_tokens = engine.queued_prefill_tokens
        view.decode_blocks, view.kv_usage = engine.cache.used_blocks, engine.cache.usage
        view.adapters = frozenset(engine.resident)
        view.active_adapters = frozenset(engine.active_adapters)
        if isinstance(self.router, PlatformRouter) and self.router.needs_reports:
            self.router.beat(view.index, engine.load(), engine.resident, engine.active_adapters, now_s)
        if scheduler.num_waiting:
            self.report()
