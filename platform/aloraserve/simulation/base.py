"""The contract of a router in the simulator: it chooses a replica for each call from what a real router could see.

Every router plays on the same modelled engines, which share blocks by the exact rule (base before the activation
point, the adapter's after it); only the choice differs. A router keys prompts as its original does, so a call offers
three chains of block keys.

Invariants: a router is deterministic by its seed; it chooses among ``fleet.alive`` and raises nothing; its memory is
bounded. All calls come from one thread, in the order of simulated time. What a router hears of a replica comes through
the observer that it made for it, whatever kind of router it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from aloraserve.blocks import BlockKey
from aloraserve.directory.base import Holding, ReplicaLoad
from aloraserve.routing.cost_model import TPOT_OBJECTIVE_S
from aloraserve.routing.fair_share import NO_TENANT, TenantShare
from aloraserve.simulation.faults import Fault
from aloraserve.simulation.simulated_loop import SimulatedLoop

Kind = Literal["base", "lora", "alora"]
KeySource = Callable[[], list[BlockKey]]


@dataclass(slots=True, eq=False)
class SimulatedCall:
    """One call, before and while it runs.

    Args:
        request: its number, in the order of creation.
        arrival_s: when it reaches the router, in simulated seconds.
        session: the client's id of its conversation.
        adapter: name of its adapter, None for the base model.
        kind: the adapter's kind.
        prompt_tokens: length of the prompt.
        output_tokens: length of the answer, at least 1.
        block_tokens: tokens per block.
        key_source: makes :attr:`keys`.
        content_source: makes :attr:`content_keys`.
        salted_source: makes :attr:`salted_keys`.
        turn: number of the trace's request that the call belongs to.
        share: of its tenant.
        ingress: number of the gateway that it comes through, None for whichever has its turn.
    """

    request: int
    arrival_s: float
    session: str
    adapter: str | None
    kind: Kind
    prompt_tokens: int
    output_tokens: int
    block_tokens: int
    key_source: KeySource
    content_source: KeySource
    salted_source: KeySource
    turn: int = 0
    share: TenantShare = NO_TENANT
    ingress: int | None = None
    _keys: list[BlockKey] | None = field(default=None, repr=False)
    _content: list[BlockKey] | None = field(default=None, repr=False)
    _salted: list[BlockKey] | None = field(default=None, repr=False)

    @property
    def keys(self) -> list[BlockKey]:
        """Keys of the prompt's whole blocks, exact: the base model's up to the activation point, then the adapter's."""
        if self._keys is None:
            self._keys = self.key_source()
        return self._keys

    @property
    def content_keys(self) -> list[BlockKey]:
        """Keys of the same blocks with no adapter in them: equal tokens have equal keys."""
        if self._content is None:
            self._content = self.content_source()
        return self._content

    @property
    def salted_keys(self) -> list[BlockKey]:
        """Keys of the same blocks with the adapter in each, from the first on, as vLLM's own hashing has it."""
        if self._salted is None:
            self._salted = self.salted_source()
        return self._salted

    def forget_keys(self) -> None:
        """Free the keys; they are made again when they are asked for."""
        self._keys = self._content = self._salted = None


@dataclass(slots=True)
class ReplicaView:
    """One replica as a router sees it.

    The first part is the router's own bookkeeping and exact. The second is what the replica last reported, several
    times per second, as scraped metrics are. ``capacity_blocks``, ``max_requests`` and ``adapter_slots`` are settings.

    Args:
        index: the replica's number.
        capacity_blocks: blocks that its KV cache has room for.
        max_requests: requests that it runs at once.
        adapter_slots: distinct adapters that may run at once.
        step_tokens: tokens that one step computes at most.
        in_flight: calls sent there that have not ended.
        in_flight_prefill_tokens: prompt tokens of those whose first token is not out, cached ones included.
        in_flight_blocks: blocks of the prompts of those that have not ended.
        running: requests whose prefill began, last reported.
        waiting: requests that wait to begin, last reported.
        pending_prefill_tokens: tokens still to prefill, last reported.
        decode_blocks: blocks of running requests, shared ones counted once, last reported.
        kv_usage: share of blocks in use by running requests, 0 to 1, last reported.
        adapters: names of the adapters loaded, last reported.
        active_adapters: names of the adapters of running and waiting requests, last reported.
    """

    index: int
    capacity_blocks: int
    max_requests: int
    adapter_slots: int
    step_tokens: int = 8192
    in_flight: int = 0
    in_flight_prefill_tokens: int = 0
    in_flight_blocks: int = 0
    running: int = 0
    waiting: int = 0
    pending_prefill_tokens: int = 0
    decode_blocks: int = 0
    kv_usage: float = 0.0
    adapters: frozenset[str] = frozenset()
    active_adapters: frozenset[str] = frozenset()


@dataclass(slots=True)
class VisibleFleet:
    """The fleet as a router sees it.

    Args:
        replicas: one view per replica, by its number, dead ones too.
        alive: numbers of those that can be sent to, ascending.
        block_tokens: tokens per block.
    """

    replicas: list[ReplicaView]
    alive: list[int]
    block_tokens: int


class KvEvent(NamedTuple):
    """A change of an engine's KV cache: first blocks that went, then blocks that came.

    Args:
        stored: placed in their chain, each after its parent.
        removed: exact keys.
    """

    stored: Sequence[Holding]
    removed: Sequence[BlockKey]


@dataclass(frozen=True, slots=True)
class KvBatch:
    """The KV events of one step of an engine.

    Args:
        sequence: counts batches from 0 without a gap, so that a gap shows which were lost on their way.
        events: in order.
    """

    sequence: int
    events: Sequence[KvEvent]


class ObservedReplica(Protocol):
    """State that a replica reports when it is asked."""

    @property
    def view(self) -> ReplicaView:
        """The replica as routers see it."""
        ...

    def load(self) -> ReplicaLoad:
        """Return its engine's load now."""
        ...

    def resident(self) -> tuple[str, ...]:
        """Return the names of the adapters that are loaded."""
        ...

    def active_adapters(self) -> tuple[str, ...]:
        """Return the names of the adapters of requests that wait or run."""
        ...

    def replay(self, first: int, end: int) -> Sequence[KvBatch]:
        """Return the lost batches from number ``first`` to before ``end``, as far as they are still there."""
        ...


class ReplicaObserver(Protocol):
    """Receiver of one replica's news, from its start to its death."""

    def accepted(self, call: SimulatedCall) -> None:
        """Learn that a call has reached the replica."""
        ...

    def first_token(self, call: SimulatedCall) -> None:
        """Learn that the call's prefill is over: its whole prompt is in the replica's cache now."""
        ...

    def finished(self, call: SimulatedCall) -> None:
        """Learn that a call ended that had a first token."""
        ...

    def arrived(self, batch: KvBatch) -> None:
        """Take in KV events; delayed and lost as the run's faults say, in their order."""
        ...

    def stepped(self, *, is_prefilled: bool) -> None:
        """Learn that the engine ended a step, and whether a prefill with it."""
        ...

    def died(self) -> None:
        """Learn that the replica is gone and with it everything it had cached."""
        ...


class RouterModel(Protocol):
    """See the module's docstring.

    Attributes:
        name: what ``--policy`` takes.
        fallbacks: decisions that had to do without the router's directory.
    """

    name: str
    fallbacks: int

    async def place(self, call: SimulatedCall) -> int:
        """Return the number of the replica that gets ``call``; it may die while the router thinks."""
        ...

    async def lost(self, call: SimulatedCall, replica: int) -> None:
        """Learn that a call that was placed will have no first token from that replica."""
        ...

    def watch(self, replica: ObservedReplica) -> ReplicaObserver:
        """Return the observer of a replica that starts now, for the first time or again."""
        ...


@dataclass(frozen=True, slots=True)
class RunContext:
    """Surroundings that a router is made for.

    Args:
        seed: for routers that draw.
        fleet: as it starts; kept up by the run.
        loop: simulated time.
        faults: of the run.
        gateways: the platform's, which share the calls and know of each other by the directory only.
        tpot_objective_s: of the platform's cost model; 0: none.
    """

    seed: int
    fleet: VisibleFleet
    loop: SimulatedLoop
    faults: Sequence[Fault] = ()
    gateways: int = 1
    tpot_objective_s: float = TPOT_OBJECTIVE_S


RouterFactory = Callable[[RunContext], RouterModel]
