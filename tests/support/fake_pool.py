"""A pool of replicas that answer by a script, and a router that says what it was asked."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from aloraserve.blocks import KeySpace
from aloraserve.directory.base import Candidate, ReplicaState
from aloraserve.routing.base import Call, Decision, Estimate
from aloraserve.routing.placement import ClaimOutcome, Placement
from aloraserve.routing.receipts import Outcome
from aloraserve.serving.engine_messages import EngineCall, EngineChunk
from aloraserve.serving.replica_pool import Replies
from aloraserve.serving.request import GenerationRequest, Origin
from aloraserve.tenants import UNTENANTED, Caller
from aloraserve.wire.sampling import SamplingSettings

ANSWER = (EngineChunk(0, "x", 1, cached_tokens=4), EngineChunk(0, "y", 1, "stop"))


class DiedError(Exception):
    """A replica that died, as a pool's transport says it."""


class FullError(Exception):
    """Too many calls wait, as a pool's transport says it."""


class EngineEndedError(Exception):
    """A replica whose engine ended, as a pool's transport says it."""


OUTCOMES: dict[type[Exception], Outcome] = {
    DiedError: Outcome.LOST,
    EngineEndedError: Outcome.ENGINE_ENDED,
    FullError: Outcome.OVERLOADED,
}


class ScriptedReplies:
    """A replica's replies, which an exception may end."""

    def __init__(self, replies: Sequence[Any]) -> None:
        self._replies = iter(replies)
        self.is_cancelled = False
        self.is_ready = False

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        try:
            reply = next(self._replies)
        except StopIteration:
            raise StopAsyncIteration from None
        if isinstance(reply, BaseException):
            raise reply
        return reply

    def cancel(self) -> None:
        self.is_cancelled = True


@dataclass
class FakeReservation:
    """A place on the replica that the pool gave."""

    pool: FakePool
    replica: str

    def send(self, call: EngineCall) -> Replies:
        self.pool.calls.append(call)
        self.pool.streams.append(ScriptedReplies(cast("Sequence[Any]", self.pool.scripts.pop(0))))
        return cast(Replies, self.pool.streams[-1])


class FakePool:
    """Gives each call the first in rank, and the next of the scripted answers.

    Args:
        scripts: an answer each; an exception instead of one is raised where a replica would be reserved.
        given: whoever is reserved in place of the first in rank.
        is_endless: whether the last script is used again and again.
    """

    def __init__(self, *scripts: Sequence[Any] | BaseException, given: str = "", is_endless: bool = False) -> None:
        self.scripts = list(scripts)
        self.ranks: list[list[str]] = []
        self.calls: list[EngineCall] = []
        self.streams: list[ScriptedReplies] = []
        self.held = 0
        self.given = given
        self._is_endless = is_endless

    @contextlib.asynccontextmanager
    async def reserve(self, rank: Sequence[str], share: Any = None) -> AsyncIterator[FakeReservation]:
        self.ranks.append(list(rank))
        if self._is_endless:
            self.scripts.append(self.scripts[-1])
        if isinstance(self.scripts[0], BaseException):
            raise self.scripts.pop(0)  # type: ignore[misc]
        self.held += 1
        try:
            yield FakeReservation(self, self.given or (rank[0] if rank else "c"))
        finally:
            self.held -= 1

    def outcome_of(self, error: Exception) -> Outcome:
        return OUTCOMES.get(type(error), Outcome.FAILED)


class FakeRouter:
    """Ranks a before b, and remembers claims."""

    def __init__(self) -> None:
        self.claimed: dict[str, str] = {}
        self.withdrawn: list[str] = []
        self.events: list[str] = []
        self.in_flight: set[str] = set()
        self.unanswered: set[str] = set()
        self.candidates: list[Candidate] = []

    async def place(self, call: Call, claim_id: str, *, avoid: Collection[str] = ()) -> Placement:
        estimates = [Estimate("a", "engine-a", 0.1, 4, 0), Estimate("b", "engine-b", 0.2, 0, 0)]
        decision = Decision("expected-ttft", "holds 4 of 8 tokens", tuple(estimates))
        replica = next((one for one in decision.rank if one not in avoid), "")
        if replica:
            self.claimed[claim_id] = replica
        self.events.append(f"claim {replica}")
        self.in_flight.add(claim_id)
        self.unanswered.add(claim_id)
        states = [
            ReplicaState("a", "1", "engine-a"),
            ReplicaState("b", "1", "engine-b"),
            ReplicaState("c", "", "engine-c"),
        ]
        claim = ClaimOutcome.CLAIMED if replica else ClaimOutcome.NONE
        return Placement(decision, replica, claim, candidates=self.candidates or [*map(Candidate, states)])

    async def move(self, call: Call, placement: Placement, replica: str, claim_id: str) -> Placement:
        self.claimed[claim_id] = replica
        self.events.append(f"move {replica}")
        return replace(placement, replica=replica, claim=ClaimOutcome.MOVED)

    async def withdraw(self, call: Call, placement: Placement, claim_id: str) -> bool:
        self.withdrawn.append(claim_id)
        self.events.append(f"withdraw {placement.replica}")
        return True

    def answered(self, claim_id: str) -> None:
        self.unanswered.discard(claim_id)

    def ended(self, claim_id: str) -> None:
        self.in_flight.discard(claim_id)
        self.unanswered.discard(claim_id)


def request(
    request_id: str = "r1", caller: Caller = UNTENANTED, *, is_streamed: bool = True, **changes: Any
) -> GenerationRequest:
    """Return a request of eight tokens for the base model."""
    token_ids = changes.pop("token_ids", list(range(8)))
    call = changes.pop("call", None) or Call(len(token_ids), 4, KeySpace("model", "tokenizer", 4).keys(token_ids))
    made = GenerationRequest(
        Origin(request_id, caller, 0.0),
        "base",
        token_ids,
        SamplingSettings(max_tokens=4),
        call,
        is_streamed=is_streamed,
        keys=call.keys,
    )
    return replace(made, **changes)
