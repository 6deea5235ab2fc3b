"""The platform's own router in the simulator: the gateway's ``Router`` and the replicas' ``Ingest``, in simulated time.

What runs is ``routing.router`` with its policies, claims, withdrawals, breaker and fallback, and
``directory.ingest`` on ``directory.memory``. docs/benchmarks/simulation.md lists under "Simplifications" what is
different around them.

Policies whose order does not depend on estimates get none: it keeps large fleets fast.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from aloraserve.blocks import KeySpace
from aloraserve.directory.base import Candidate
from aloraserve.routing.base import Call, Estimate
from aloraserve.routing.cost_model import CostModel, overlap_tokens
from aloraserve.routing.expected_ttft import ExpectedTtft
from aloraserve.routing.own_policy import is_path
from aloraserve.routing.placement import Placement
from aloraserve.routing.policies import make_policy, policy_kind
from aloraserve.routing.router import Router
from aloraserve.routing.session_hash import SessionHash
from aloraserve.simulation.base import KvBatch, ObservedReplica, ReplicaView, RunContext, SimulatedCall
from aloraserve.simulation.replica_publisher import MIN_HEARTBEAT_S, ReplicaPublisher
from aloraserve.simulation.simulated_directory import SimulatedDirectory

WAITING_ROOM = 4
"""Serve gives a replica so many times ``max_num_seqs`` calls, then the next in rank."""
EPOCH_S = 1.0
"""So long after an outage every replica has looked whether the directory lost its content."""


class _NoCosts(CostModel):
    """For policies that estimate only to explain themselves."""

    def estimate(self, call: Call, candidate: Candidate) -> Estimate:
        """Return an estimate that says nothing but whose it is, and the overlap that claims go by."""
        return Estimate(candidate.state.replica, "", 0.0, overlap_tokens(call, candidate), 0)


@dataclass(frozen=True, slots=True)
class _Placed:
    """A call, its claim and who placed it."""

    gateway: Router
    call: Call
    placement: Placement
    claim_id: str


class PlatformRouter:
    """See :class:`~aloraserve.simulation.base.RouterModel`, and the module's docstring.

    Args:
        policy: its name in ``routing.policies``.
        context: of the run.
        is_adapter_blind: whether the policy does not know which adapter a call is for.
    """

    def __init__(self, policy: str, context: RunContext, *, is_adapter_blind: bool = False) -> None:
        self.name = f"{policy}-blind" if is_adapter_blind else policy
        self._is_adapter_blind = is_adapter_blind
        self.fallbacks = 0
        self._context = context
        self._loop = context.loop
        self._chance = random.Random(f"ingest {context.seed}")  # noqa: S311
        self._directory = SimulatedDirectory(self._loop.time, context.faults)
        self._keyspace = KeySpace("simulated", "simulated", context.fleet.block_tokens)
        self._uses_directory = policy_kind(policy).asks_directory
        # Few clients send an id of their conversation; those of policies that ask for one do.
        self._has_sessions = policy == SessionHash.name or is_path(policy)
        has_costs = policy == ExpectedTtft.name or is_path(policy)
        costs = CostModel(tpot_objective_s=context.tpot_objective_s) if has_costs else _NoCosts()
        self._gateways = [self._gateway(policy, number, costs) for number in range(context.gateways)]
        self._views: dict[str, ReplicaView] = {}
        self._indexes: dict[str, int] = {}
        self._publishers: dict[str, ReplicaPublisher] = {}
        self._known: list[str] | None = None
        self._starts: dict[int, int] = {}
        self._placed: dict[int, _Placed] = {}
        self._answered: dict[int, _Placed] = {}
        self._claims = 0
        for fault in context.faults:
            if fault.kind == "redis-outage":
                self._loop.at(fault.end_s, self._report)
                self._loop.at(fault.end_s + EPOCH_S, self._report)

    @property
    def directory(self) -> SimulatedDirectory:
        """The directory as the policy sees it."""
        return self._directory

    async def place(self, call: SimulatedCall) -> int:
        self._claims += 1
        claim_id = f"{call.request}-{self._claims}"
        session = call.session if self._has_sessions else None
        version = None if self._is_adapter_blind else call.adapter
        routed = Call(call.prompt_tokens, call.block_tokens, call.keys, call.adapter, session, version=version)
        # As a load balancer in front of them does, unless a tenant's clients go to one of them.
        turn = self._claims if call.ingress is None else call.ingress
        gateway = self._gateways[turn % len(self._gateways)]
        placement = await gateway.place(routed, claim_id)
        self.fallbacks += placement.fallback is not None
        taker = self._taker(placement)
        if taker != placement.replica:
            placement = await gateway.move(routed, placement, taker, claim_id)
        self._placed[call.request] = _Placed(gateway, routed, placement, claim_id)
        return self._indexes.get(taker, 0)

    async def lost(self, call: SimulatedCall, replica: int) -> None:
        """Take the call's claim back."""
        placed = self._placed.pop(call.request)
        placed.gateway.ended(placed.claim_id)
        await placed.gateway.withdraw(placed.call, placed.placement, placed.claim_id)

    def watch(self, replica: ObservedReplica) -> PlatformObserver:
        """Begin a replica's next start: another one to the router, with an id of its own."""
        index = replica.view.index
        start = self._starts[index] = self._starts.get(index, -1) + 1
        name = f"r{index:04d}" if start == 0 else f"r{index:04d}.{start}"
        self._views[name] = replica.view
        self._indexes[name] = index
        self._known = None
        if self._uses_directory:
            self._publishers[name] = ReplicaPublisher(
                replica,
                name,
                self._directory,
                self._keyspace,
                self._loop,
                self._chance,
                len(self._context.fleet.replicas),
            )
        return PlatformObserver(self, name)

    def accepted(self, call: SimulatedCall, name: str) -> None:
        """Settle the claim of a call that is there."""
        if publisher := self._publishers.get(name):
            publisher.settle(self._placed[call.request].claim_id)

    def first_token(self, call: SimulatedCall) -> None:
        """Forget the claim: it stands."""
        placed = self._answered[call.request] = self._placed.pop(call.request)
        placed.gateway.answered(placed.claim_id)

    def finished(self, call: SimulatedCall) -> None:
        """Count a call no more that had a first token."""
        placed = self._answered.pop(call.request)
        placed.gateway.ended(placed.claim_id)

    def publisher(self, name: str) -> ReplicaPublisher | None:
        """Return who publishes for a replica, None if nobody reads it."""
        return self._publishers.get(name)

    def died(self, name: str) -> None:
        """Know a replica no more."""
        del self._views[name]
        self._known = None
        if publisher := self._publishers.pop(name, None):
            publisher.end()

    def _gateway(self, policy: str, number: int, costs: CostModel) -> Router:
        return Router(
            self._directory,
            make_policy(policy, costs=costs, seed=self._context.seed + number),
            self._keyspace,
            known_replicas=self._known_replicas,
            use_directory=self._uses_directory,
            clock=self._loop.time,
        )

    def _known_replicas(self) -> list[str]:
        if self._known is None:
            self._known = sorted(self._views)
        return self._known

    def _taker(self, placement: Placement) -> str:
        """Return the first in rank that has room, as Serve does; the first that lives, if all are full."""
        living = [name for name in placement.decision.rank if name in self._views] or self._known_replicas()
        first = living[0] if living else placement.replica
        return next((name for name in living if _has_room(self._views[name])), first)

    def _report(self) -> None:
        for publisher in self._publishers.values():
            publisher.report()


class PlatformObserver:
    """See :class:`~aloraserve.simulation.base.ReplicaObserver`.

    Args:
        router: who made it.
        name: the replica's id.
    """

    def __init__(self, router: PlatformRouter, name: str) -> None:
        self._router = router
        self._name = name
        self._publisher = router.publisher(name)

    def accepted(self, call: SimulatedCall) -> None:
        self._router.accepted(call, self._name)

    def first_token(self, call: SimulatedCall) -> None:
        self._router.first_token(call)

    def finished(self, call: SimulatedCall) -> None:
        self._router.finished(call)

    def arrived(self, batch: KvBatch) -> None:
        if self._publisher:
            self._publisher.arrived(batch)

    def stepped(self, *, is_prefilled: bool) -> None:
        if self._publisher:
            self._publisher.report(MIN_HEARTBEAT_S) if is_prefilled else self._publisher.report()

    def died(self) -> None:
        self._publisher = None
        self._router.died(self._name)


def _has_room(view: ReplicaView) -> bool:
    return view.in_flight < WAITING_ROOM * view.max_requests
