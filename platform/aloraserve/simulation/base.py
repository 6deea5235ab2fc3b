"""The contract of a router in the simulator: it chooses a replica for each call from what a real router could see.

Every router plays on the same modelled engines, which share blocks by the exact rule (base before the activation
point, the adapter's after it); only the choice differs. A router keys prompts as its original does, so a call offers
three chains of block keys.

Invariants: a router is deterministic by its seed; it chooses among ``fleet.alive`` and raises nothing; its memory is
bounded. All calls come from one thread, in the order of simulated time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from aloraserve.blocks import BlockKey

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
        block_tokens: tokens a block.
        key_source: makes :attr:`keys`.
        content_source: makes :attr:`content_keys`.
        salted_source: makes :attr:`salted_keys`.
        turn: number of the trace's request that the call belongs to.
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
    """What a router can see of one replica.

    The first part is the router's own bookkeeping and exact. The second is what the replica last reported, several
    times a second, as scraped metrics are. ``capacity_blocks``, ``max_requests`` and ``adapter_slots`` are settings.

    Args:
        index: the replica's number.
        capacity_blocks: blocks that its KV cache has room for.
        max_requests: requests that it runs at once.
        adapter_slots: distinct adapters that may run at once.
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
class FleetView:
    """The fleet as a router sees it.

    Args:
        replicas: one view a replica, by its number, dead ones too.
        alive: numbers of those that can be sent to, ascending; never empty when a router is asked.
        block_tokens: tokens a block.
    """

    replicas: list[ReplicaView]
    alive: list[int]
    block_tokens: int


class RouterModel(Protocol):
    """See the module's docstring. ``name`` is what ``--policy`` takes."""

    name: str

    def choose(self, call: SimulatedCall, fleet: FleetView, now_s: float) -> int:
        """Return the number of the replica that gets ``call``; a member of ``fleet.alive``."""
        ...

    def observe(self, replica: int, stored: Sequence[BlockKey], removed: Sequence[BlockKey], now_s: float) -> None:
        """Take in a replica's KV events: exact keys (:attr:`SimulatedCall.keys`) that came and that went.

        Stored keys are in chain order, each after its parent. Delayed and lost as the run's faults say. A router that
        salts or ignores adapters learns what its own key scheme makes of it from :meth:`first_token`.
        """
        ...

    def first_token(self, call: SimulatedCall, replica: int, now_s: float) -> None:
        """Learn that the call's prefill is over: its whole prompt is in the replica's cache now."""
        ...

    def finished(self, call: SimulatedCall, replica: int, now_s: float) -> None:
        """Learn that the call ended, or failed with its replica."""
        ...

    def lost(self, replica: int, now_s: float) -> None:
        """Learn that a replica is gone and with it everything it had cached."""
        ...


RouterFactory = Callable[[int, FleetView], RouterModel]
"""Makes a router from a seed and the fleet as it starts."""
