"""One modelled replica in the fleet: its engine, its life, and what it reports of itself."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from aloraserve.blocks import BlockKey
from aloraserve.directory.base import ReplicaLoad, place
from aloraserve.simulation.base import KvBatch, KvEvent, ReplicaObserver, ReplicaView, RouterModel, SimulatedCall
from aloraserve.simulation.faults import Fault
from aloraserve.simulation.modelled_engine import ModelledEngine, ModelledRequest, StepResult
from aloraserve.simulation.simulated_loop import SimulatedLoop

REPORT_S = 0.15
"""As metrics of real ones are scraped."""
WARM_UP = "warm-up"
"""Who has the blocks of a prefix while it is computed before the first call."""
NewEngine = Callable[[Callable[[StepResult], None]], ModelledEngine]
"""Makes an engine from what is called with what each of its steps brought."""
MAX_LOST = 10_000
"""As many batches as vLLM keeps to be replayed (``buffer_steps``)."""


@dataclass(slots=True)
class ReplicaHooks:
    """The fleet's reactions to a replica's news.

    Args:
        first_token: called with a request whose first token is out.
        finished: called with a request whose last token is out.
    """

    first_token: Callable[[ModelledReplica, ModelledRequest], None]
    finished: Callable[[ModelledReplica, ModelledRequest], None]


@dataclass(eq=False)
class ModelledReplica:
    """See the module's docstring.

    What routers see of it is brought up to date when something changed and the last time is a while ago, and as long as
    calls wait. KV events leave at the end of each step; a delay keeps their order.

    Args:
        view: what routers see; reports update its second part.
        loop: simulated time.
        router: makes the observer.
        faults: of events.
        chance: decides which event batches are lost.
        new_engine: makes an engine with an empty cache.
        hooks: see :class:`ReplicaHooks`.
        alive: False for one that starts later, by :meth:`restart`.
        is_leaving: it ends when what it runs has ended.
    """

    view: ReplicaView
    loop: SimulatedLoop
    router: RouterModel
    faults: Sequence[Fault]
    chance: random.Random
    new_engine: NewEngine
    hooks: ReplicaHooks
    alive: bool = True
    is_leaving: bool = False
    requests: int = 0
    adapter_loads: int = 0
    busy_s: float = 0.0
    engine: ModelledEngine = field(init=False)
    observer: ReplicaObserver = field(init=False)
    _life: int = 0
    _is_report_due: bool = False
    _reported_s: float = -REPORT_S
    _sequence: int = 0
    _delivered_s: float = 0.0
    _lost: deque[KvBatch] = field(default_factory=deque)

    def __post_init__(self) -> None:
        """Start the engine, unless the replica is for later."""
        if self.alive:
            self._start()

    @property
    def life(self) -> int:
        """How many lives it has had before."""
        return self._life

    def load(self) -> ReplicaLoad:
        """Return the engine's load now."""
        return self.engine.load()

    def resident(self) -> tuple[str, ...]:
        """Return the names of the adapters that are loaded."""
        return self.engine.resident

    def active_adapters(self) -> tuple[str, ...]:
        """Return the names of the adapters of requests that wait or run."""
        return self.engine.active_adapters

    def replay(self, first: int, end: int) -> list[KvBatch]:
        """Return the lost batches from number ``first`` to before ``end``, as far as they are still there."""
        return [batch for batch in self._lost if first <= batch.sequence < end]

    def submit(self, call: SimulatedCall) -> ModelledRequest:
        """Take in a call."""
        self.requests += 1
        request = self.engine.submit(call)
        self.observer.accepted(call)
        self._report()
        return request

    def hold(self, chains: Sequence[Sequence[BlockKey]]) -> None:
        """Have prefixes cached, as if they had been computed before."""
        cache = self.engine.cache
        for chain in chains:
            allocation = cache.allocate(WARM_UP, chain, len(chain))
            if allocation is not None:
                cache.release(WARM_UP)
                new = set(allocation.stored)
                self._send([KvEvent([each for each in place(chain) if each.key in new], allocation.evicted)])

    def leave(self) -> None:
        """Be one that routers know no more; what runs goes on."""
        self.is_leaving = True
        self.observer.died()

    def kill(self) -> list[ModelledRequest]:
        """Die now; return the requests that die with it."""
        lost = self.engine.kill()
        self._count_engine()
        self.alive = False
        self._life += 1
        if not self.is_leaving:
            self.observer.died()
        return lost

    def restart(self) -> None:
        """Live again, with an empty cache."""
        self.alive, self.is_leaving = True, False
        self._start()

    def end(self) -> None:
        """Count what the engine did, when the run is over."""
        if self.alive:
            self._count_engine()

    def _start(self) -> None:
        self.engine = self.new_engine(self._stepped)
        self._sequence = 0
        self._lost = deque(maxlen=MAX_LOST)
        self.observer = self.router.watch(self)
        self._update_view(self._life)

    def _report(self) -> None:
        """Have what routers see brought up to date as soon as that is due."""
        if not self._is_report_due and self.alive:
            self._is_report_due = True
            life = self._life
            self.loop.at(self._reported_s + REPORT_S, lambda: self._update_view(life))

    def _count_engine(self) -> None:
        scheduler = self.engine.scheduler
        self.adapter_loads += self.engine.adapter_loads
        self.busy_s += scheduler.busy_s

    def _stepped(self, result: StepResult) -> None:
        self._hand_on(result)
        self.observer.stepped(is_prefilled=bool(result.first_tokens))
        self._report()

    def _hand_on(self, result: StepResult) -> None:
        if result.kv_events:
            self._send([KvEvent(*event) for event in result.kv_events])
        for request in result.first_tokens:
            self.hooks.first_token(self, request)
        for request in result.finished:
            self.hooks.finished(self, request)

    def _send(self, events: Sequence[KvEvent]) -> None:
        now_s = self.loop.now_s
        batch = KvBatch(self._sequence, events)
        self._sequence += 1
        delay_s = sum(fault.value for fault in self.faults if fault.kind == "event-delay" and fault.is_on(now_s))
        losses = [fault.value for fault in self.faults if fault.kind == "event-loss" and fault.is_on(now_s)]
        if losses and self.chance.random() < max(losses):
            self._lost.append(batch)
        elif delay_s <= 0 and self._delivered_s <= now_s:
            self.observer.arrived(batch)
        else:
            self._delivered_s = max(self._delivered_s, now_s + delay_s)
            life = self._life
            self.loop.at(self._delivered_s, lambda: self._deliver(batch, life))

    def _deliver(self, batch: KvBatch, life: int) -> None:
        if life == self._life and self.alive:
            self.observer.arrived(batch)

    def _update_view(self, life: int) -> None:
        if life != self._life or not self.alive:
            return
        engine, view = self.engine, self.view
        scheduler = engine.scheduler
        self._is_report_due = False
        self._reported_s = self.loop.now_s
        view.running, view.waiting = len(scheduler.running), scheduler.num_waiting
        view.pending_prefill_tokens = engine.queued_prefill_tokens
        view.decode_blocks, view.kv_usage = engine.cache.used_blocks, engine.cache.usage
        view.adapters = frozenset(engine.resident)
        view.active_adapters = frozenset(engine.active_adapters)
        if scheduler.num_waiting:
            self._report()
