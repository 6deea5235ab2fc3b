"""The platform's own router in the simulator: the real directory and the real policies, in simulated time.

What runs here is ``directory.memory.MemoryDirectory`` and ``routing.policies``. What stands for asyncio's parts, the
gateway's ``routing.router.Router`` and the replicas' ``directory.ingest.Ingest``, does their main path in one thread:
look up, decide, claim; publish loads with the claims that have arrived, push holdings, begin a new generation after an
outage. A decision takes no simulated time, so that no claim meets another's; nothing is slow, refused or withdrawn.
docs/benchmarks/simulation.md lists under "Simplifications" what else differs.

Policies whose order does not depend on estimates get none: it keeps large fleets fast.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aloraserve.blocks import BlockKey
from aloraserve.directory.base import MAX_APPLY_BLOCKS, Candidate, Holding, ReplicaLoad, ReplicaState
from aloraserve.directory.memory import MemoryDirectory
from aloraserve.routing.base import Call, Decision, Estimate
from aloraserve.routing.cost_model import CostModel, overlap_tokens, unpublished
from aloraserve.routing.expected_ttft import ExpectedTtft
from aloraserve.routing.policies import POLICIES, make_policy
from aloraserve.routing.rendezvous import Rendezvous
from aloraserve.simulation.base import FleetView, SimulatedCall

ResultT = TypeVar("ResultT")
_FOREVER_S = 1e12


@dataclass(slots=True)
class _Published:
    """What one replica's publisher keeps: its holdings' places, its generation, and claims that have arrived."""

    name: str
    start: int = 0
    generation: int = 0
    held: dict[BlockKey, Holding] = field(default_factory=dict)
    arrived: list[str] = field(default_factory=list)
    is_dirty: bool = False

    @property
    def incarnation(self) -> str:
        return f"{self.start}.{self.generation}"


class _NoCosts(CostModel):
    """For policies that estimate only to explain themselves."""

    def estimate(self, call: Call, candidate: Candidate) -> Estimate:
        """Return an estimate that says nothing but whose it is."""
        return Estimate(candidate.state.replica, "", 0.0, 0, 0)


class PlatformRouter:
    """See :class:`~aloraserve.simulation.base.RouterModel`, and the module's docstring.

    Args:
        policy: its name in ``routing.policies``.
        seed: for policies that draw.
        fleet: as it starts.
        step_tokens: tokens a step of the engines, for the cost model.
    """

    def __init__(self, policy: str, seed: int, fleet: FleetView, *, step_tokens: int = 8192) -> None:
        self.name = policy
        self.fallbacks = 0
        self._now_s = 0.0
        self._is_out = False
        self._directory = self._new_directory()
        self._uses_costs = policy == ExpectedTtft.name
        costs = CostModel(step_tokens=step_tokens) if self._uses_costs else _NoCosts()
        self._policy = make_policy(policy, costs=costs, seed=seed)
        self._asks = POLICIES[policy].asks_directory
        self._fallback = Rendezvous()
        self._replicas = [_Published(f"r{view.index:04d}") for view in fleet.replicas]
        self._indexes = {one.name: index for index, one in enumerate(self._replicas)}
        self._unpublished = [unpublished(one.name) for one in self._replicas]
        self._last: list[Candidate] = []

    @property
    def directory(self) -> MemoryDirectory:
        """Who holds what, as the policy sees it."""
        return self._directory

    @property
    def needs_reports(self) -> bool:
        """Whether what :meth:`beat` and :meth:`hold` would be told matters to the policy."""
        return self._asks

    def choose(self, call: SimulatedCall, fleet: FleetView, now_s: float) -> int:
        """Look up, decide and claim; without the directory, fall back as the gateway does."""
        self._now_s = now_s
        asked = Call(call.prompt_tokens, call.block_tokens, call.keys, call.adapter, call.session)
        if not self._asks:
            return self._first(self._policy.decide(asked, [self._unpublished[index] for index in fleet.alive]))
        if self._is_out:
            self.fallbacks += 1
            known = {one.state.replica: one for one in self._last}
            plain = [
                Candidate(known[one.state.replica].state) if one.state.replica in known else one
                for one in (self._unpublished[index] for index in fleet.alive)
            ]
            return self._first(self._fallback.decide(asked, plain))
        candidates = self._reachable(drive(self._directory.lookup(call.keys)), fleet)
        self._last = candidates
        index = self._first(self._policy.decide(asked, candidates))
        self._claim(call, asked, index, candidates)
        return index

    def observe(self, replica: int, stored: Sequence[BlockKey], removed: Sequence[BlockKey], now_s: float) -> None:
        """Do nothing: holdings come through :meth:`hold`, placed in their chains."""

    def first_token(self, call: SimulatedCall, replica: int, now_s: float) -> None:
        """Do nothing: replicas say so themselves."""

    def finished(self, call: SimulatedCall, replica: int, now_s: float) -> None:
        """Do nothing: replicas say so themselves."""

    def lost(self, replica: int, now_s: float) -> None:
        """Let the replica's lease lapse, with its claims; called when it does, not when the replica dies."""
        self._now_s = now_s
        drive(self._directory.retire(self._replicas[replica].name))

    def hold(self, replica: int, stored: Sequence[Holding], removed: Sequence[BlockKey], now_s: float) -> None:
        """Push what a replica's engine came to hold, and what it holds no more."""
        self._now_s = now_s
        publisher = self._replicas[replica]
        held = publisher.held
        gone = [held.pop(key) for key in removed if key in held]
        for holding in stored:
            held[holding.key] = holding
        if self._is_out:
            publisher.is_dirty = True
        elif not publisher.is_dirty:
            self._push(publisher, removed=gone)
            self._push(publisher, stored=stored)

    def beat(
        self,
        replica: int,
        load: ReplicaLoad,
        resident: tuple[str, ...],
        active_adapters: tuple[str, ...],
        now_s: float,
    ) -> None:
        """Publish a replica's state, and the claims that have arrived there."""
        if self._is_out:
            return
        self._now_s = now_s
        publisher = self._replicas[replica]
        if publisher.is_dirty:
            self._start_over(publisher)
        state = ReplicaState(
            publisher.name, publisher.incarnation, publisher.name, load, resident, len(publisher.held), active_adapters
        )
        # Beats come when something changed; that a dead replica's lease lapses is the fleet's part.
        drive(self._directory.publish(state, ttl_s=_FOREVER_S, settled=publisher.arrived))
        publisher.arrived.clear()

    def restarted(self, replica: int, now_s: float) -> None:
        """Begin a replica's next start, with nothing held."""
        self._replicas[replica] = _Published(self._replicas[replica].name, self._replicas[replica].start + 1)

    def set_outage(self, is_out: bool, now_s: float) -> None:
        """Begin an outage of the directory, or end it: it comes back empty, and every replica pushes all it holds."""
        self._now_s = now_s
        self._is_out = is_out
        if not is_out:
            self._directory = self._new_directory()
            for publisher in self._replicas:
                publisher.is_dirty = True

    def _new_directory(self) -> MemoryDirectory:
        return MemoryDirectory(clock=lambda: self._now_s, max_nodes=4_000_000)

    def _reachable(self, found: list[Candidate], fleet: FleetView) -> list[Candidate]:
        """Return the candidates that can be sent to, unpublished ones too."""
        alive = fleet.alive
        if len(found) == len(alive) == len(self._replicas):
            return found
        by_index = {self._indexes[one.state.replica]: one for one in found}
        return [by_index.get(index) or self._unpublished[index] for index in alive]

    def _first(self, decision: Decision) -> int:
        return self._indexes[decision.estimates[0].replica]

    def _claim(self, call: SimulatedCall, asked: Call, index: int, candidates: Sequence[Candidate]) -> None:
        publisher = self._replicas[index]
        chosen = next((one for one in candidates if one.state.replica == publisher.name), None)
        if chosen is None or not chosen.state.incarnation:
            return
        claim_id = f"{call.request}"
        tokens = call.prompt_tokens - overlap_tokens(asked, chosen)
        drive(self._directory.claim(claim_id, publisher.name, chosen.state.incarnation, call.keys, tokens=tokens))
        publisher.arrived.append(claim_id)

    def _start_over(self, publisher: _Published) -> None:
        publisher.is_dirty = False
        publisher.generation += 1
        self._push(publisher, stored=list(publisher.held.values()))
        drive(self._directory.reclaim(max_fields=1_000_000))

    def _push(self, publisher: _Published, *, stored: Sequence[Holding] = (), removed: Sequence[Holding] = ()) -> None:
        for start in range(0, len(stored), MAX_APPLY_BLOCKS):
            part = stored[start : start + MAX_APPLY_BLOCKS]
            drive(self._directory.apply(publisher.name, publisher.incarnation, stored=part))
        for start in range(0, len(removed), MAX_APPLY_BLOCKS):
            part = removed[start : start + MAX_APPLY_BLOCKS]
            drive(self._directory.apply(publisher.name, publisher.incarnation, removed=part))


def drive(coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Return what a coroutine returns that waits for nothing.

    Raises:
        RuntimeError: it waited.
    """
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: ResultT = done.value
        return result
    coroutine.close()
    raise RuntimeError("the in-memory directory waited for something")
