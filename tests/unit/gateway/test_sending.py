"""One call on its way: reserved, claimed, dispatched; withdrawn, retried or refused when that fails."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve.exceptions import BackPressureError

from aloraserve.errors import InvalidRequestError, OverloadedError, ReplicaLostError
from aloraserve.routing.base import Call, Decision, Estimate
from aloraserve.routing.placement import ClaimOutcome, Placement
from aloraserve.routing.receipts import Receipt, ReceiptRing
from aloraserve.serving.engine_messages import EngineCall, EngineChunk, EngineRefusal
from aloraserve.tenants import UNTENANTED, Caller
from aloraserve.wire.sampling import SamplingSettings
from aloraserve_services.gateway import exchange
from aloraserve_services.gateway.metrics import METRICS
from aloraserve_services.gateway.prompts import Prompt
from aloraserve_services.gateway.sending import Sender, Tries

CALL = Call(prompt_tokens=8, block_tokens=4, keys=[b"a" * 16, b"b" * 16])
PROMPT = Prompt("base", list(range(8)), SamplingSettings(max_tokens=4))
ANSWER = (EngineChunk(0, "x", 1, cached_tokens=4), EngineChunk(0, "y", 1, "stop"))


class Routing:
    """Ranks a before b, and remembers claims."""

    def __init__(self) -> None:
        self.claimed: dict[str, str] = {}
        self.withdrawn: list[str] = []
        self.events: list[str] = []

    async def place(self, call: Call, claim_id: str, *, avoid: Collection[str] = ()) -> Placement:
        estimates = [Estimate("a", "engine-a", 0.1, 4, 0), Estimate("b", "engine-b", 0.2, 0, 0)]
        decision = Decision("expected-ttft", "holds 4 of 8 tokens", tuple(estimates))
        replica = next((one for one in decision.rank if one not in avoid), "")
        if replica:
            self.claimed[claim_id] = replica
        self.events.append(f"claim {replica}")
        labels = {name: f"engine-{name}" for name in "abc"}
        claim = ClaimOutcome.CLAIMED if replica else ClaimOutcome.NONE
        return Placement(decision, {"a": "1", "b": "1"}, replica, claim, labels=labels)

    async def move(self, call: Call, placement: Placement, replica: str, claim_id: str) -> Placement:
        self.claimed[claim_id] = replica
        self.events.append(f"move {replica}")
        return replace(placement, replica=replica, claim=ClaimOutcome.MOVED)

    async def withdraw(self, call: Call, placement: Placement, claim_id: str) -> bool:
        self.withdrawn.append(claim_id)
        self.events.append(f"withdraw {placement.replica}")
        return True


class Replies:
    """A replica's stream of replies, which an exception may end."""

    def __init__(self, replies: tuple[Any, ...]) -> None:
        self._replies = iter(replies)
        self.cancelled = False

    def __aiter__(self) -> AsyncIterator[Any]:
        return cast(AsyncIterator[Any], self)

    async def __anext__(self) -> Any:
        try:
            reply = next(self._replies)
        except StopIteration:
            raise StopAsyncIteration from None
        if isinstance(reply, BaseException):
            raise reply
        return reply

    def cancel(self) -> None:
        self.cancelled = True


class Handle:
    """Serve's handle: each call is given the first in rank, and the next of the scripted streams."""

    def __init__(self, *scripts: tuple[Any, ...] | BaseException, given: str = "") -> None:
        self.given = given
        self.scripts = list(scripts)
        self.ranks: list[list[str]] = []
        self.calls: list[EngineCall] = []
        self.streams: list[Replies] = []

    @asynccontextmanager
    async def choose_replica(self, rank: list[str]) -> AsyncIterator[Any]:
        self.ranks.append(rank)
        if isinstance(self.scripts[0], BaseException):
            raise self.scripts.pop(0)  # type: ignore[misc]
        yield SimpleNamespace(replica_id=self.given or (rank[0] if rank else "c"))

    def dispatch(self, selection: Any, call: EngineCall) -> Replies:
        self.calls.append(call)
        self.streams.append(Replies(cast("tuple[Any, ...]", self.scripts.pop(0))))
        return self.streams[-1]


@pytest.fixture(autouse=True)
def _no_serve_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no Serve request here to give an id of its own; tests/integration does that for real."""
    monkeypatch.setattr(exchange, "own_request_id", lambda: None)


async def send(handle: Handle, routing: Routing | None = None, receipts: ReceiptRing | None = None) -> Any:
    kept = ReceiptRing() if receipts is None else receipts
    sender = Sender(cast(Any, routing or Routing()), handle, kept)
    return await sender.send(PROMPT, CALL, "r1", Caller("x", cache_salt="tenant:x"))


def died() -> ActorDiedError:
    return ActorDiedError()


def task_error(cause: Exception) -> RayTaskError:
    return RayTaskError("generate", "traceback", cause).as_instanceof_cause()


async def test_a_call_is_claimed_where_it_runs_and_its_chunks_come_in_order() -> None:
    handle, routing = Handle(ANSWER), Routing()
    sent = await send(handle, routing)
    assert (sent.replica, sent.label, sent.reason) == ("a", "engine-a", "holds 4 of 8 tokens")
    assert (sent.cached_tokens, sent.overlap_tokens) == (4, 4)
    assert [chunk.text async for chunk in sent.replies] == ["x", "y"]
    (call,) = handle.calls
    assert (call.token_ids, call.cache_salt, call.adapter) == (PROMPT.token_ids, "tenant:x", None)
    assert routing.claimed == {call.request_id: "a"}
    assert routing.withdrawn == []
    assert not handle.streams[0].cancelled


@pytest.mark.parametrize("end", [died(), task_error(type("EngineDeadError", (Exception,), {})())])
async def test_a_replica_that_dies_unheard_is_passed_over_and_its_claim_withdrawn(end: Exception) -> None:
    handle, routing = Handle((end,), ANSWER), Routing()
    sent = await send(handle, routing)
    assert handle.ranks == [["a", "b"], ["b"]]
    assert sent.replica == "b"
    assert sent.reason.startswith("next in rank: engine-a was full or lost")
    assert routing.withdrawn == [handle.calls[0].request_id]
    assert handle.calls[0].request_id != handle.calls[1].request_id


async def test_an_answer_that_the_engine_cut_short_before_it_began_is_asked_for_again() -> None:
    handle = Handle((EngineChunk(0, "", 0, "abort"),), ANSWER)
    assert (await send(handle)).replica == "b"


@pytest.mark.parametrize("end", [died(), EngineChunk(0, "", 0, "error")])
async def test_an_answer_that_is_cut_short_after_it_began_says_so(end: Any) -> None:
    receipts = ReceiptRing()
    sent = await send(Handle((ANSWER[0], end)), receipts=receipts)
    assert (await anext(sent.replies)).text == "x"
    assert only(receipts).attempts[0].outcome == "answered"
    with pytest.raises(ReplicaLostError, match="incomplete"):
        await anext(sent.replies)
    assert only(receipts).attempts[0].outcome == "cut-short"


async def test_after_three_losses_the_call_fails() -> None:
    handle, routing = Handle((died(),), (died(),), (died(),), ANSWER), Routing()
    with pytest.raises(ReplicaLostError, match="3 replicas were lost"):
        await send(handle, routing)
    assert handle.ranks == [["a", "b"], ["b"], []]
    assert len(routing.withdrawn) == 3


async def test_answers_that_were_lost_later_share_the_attempts_and_the_lost_replicas() -> None:
    handle, routing, tries = Handle((ANSWER[0], died()), (died(),), ANSWER, ANSWER), Routing(), Tries()
    sender = Sender(cast(Any, routing), handle, ReceiptRing())
    sent = await sender.send(PROMPT, CALL, "r1", UNTENANTED, tries)
    with pytest.raises(ReplicaLostError):
        [chunk async for chunk in sent.replies]
    tries.lose(sent.replica)
    assert (await sender.send(PROMPT, CALL, "r1", UNTENANTED, tries)).replica == "c"
    assert handle.ranks == [["a", "b"], ["b"], []]
    assert tries.left == 0
    with pytest.raises(ReplicaLostError):
        await sender.send(PROMPT, CALL, "r1", UNTENANTED, tries)
    assert len(handle.ranks) == 3


async def test_a_fault_of_ours_is_not_tried_on_every_replica() -> None:
    handle, routing = Handle((task_error(KeyError("x")),), ANSWER), Routing()
    with pytest.raises(RayTaskError):
        await send(handle, routing)
    assert len(handle.calls) == 1
    assert routing.withdrawn == [handle.calls[0].request_id]


async def test_a_timeout_inside_the_engine_is_no_full_waiting_room() -> None:
    with pytest.raises(RayTaskError):
        await send(Handle((task_error(TimeoutError("x")),)))


async def test_a_refusal_is_the_client_s_and_leaves_no_claim() -> None:
    handle, routing = Handle((EngineRefusal("too odd", "prompt"),)), Routing()
    with pytest.raises(InvalidRequestError, match="too odd") as caught:
        await send(handle, routing)
    assert caught.value.param == "prompt"
    assert routing.withdrawn == [handle.calls[0].request_id]


async def test_a_full_waiting_room_is_an_overload_whose_claim_is_withdrawn() -> None:
    routing = Routing()
    with pytest.raises(OverloadedError, match="waiting room is full"):
        await send(Handle(BackPressureError(num_queued_requests=9, max_queued_requests=9)), routing)
    assert routing.events == ["claim a", "withdraw a"]


async def test_a_call_is_claimed_before_a_replica_is_reserved_for_it() -> None:
    class Watching(Handle):
        @asynccontextmanager
        async def choose_replica(self, rank: list[str]) -> AsyncIterator[Any]:
            assert routing.events == ["claim a"]
            async with super().choose_replica(rank) as selection:
                yield selection

    routing = Routing()
    await send(Watching(ANSWER), routing)
    assert routing.events == ["claim a"]


async def test_a_claim_follows_its_call_to_the_replica_that_serve_gave() -> None:
    routing, receipts = Routing(), ReceiptRing()
    sent = await send(Handle(ANSWER, given="b"), routing, receipts)
    assert [chunk.text async for chunk in sent.replies] == ["x", "y"]
    assert routing.events == ["claim a", "move b"]
    assert (sent.replica, sent.reason) == ("b", "next in rank: engine-a was full or lost (holds 4 of 8 tokens)")
    routing = Routing()
    with pytest.raises(RayTaskError):
        await send(Handle((task_error(KeyError("x")),), given="b"), routing)
    assert routing.events == ["claim a", "move b", "withdraw b"]


async def test_a_claim_that_cannot_move_costs_the_answer_nothing() -> None:
    class Breaking(Routing):
        async def move(self, call: Call, placement: Placement, replica: str, claim_id: str) -> Placement:
            raise KeyError("unforeseen")

    sent = await send(Handle(ANSWER, given="b"), Breaking())
    assert [chunk.text async for chunk in sent.replies] == ["x", "y"]


async def test_a_claim_that_expired_while_the_call_waited_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "CLAIM_TTL_S", 0.0)
    routing = Routing()
    sent = await send(Handle(ANSWER), routing)
    await cast(Any, sent.replies).aclose()
    assert routing.events == ["claim a", "move a"]


def only(receipts: ReceiptRing) -> Receipt:
    found = receipts.get("r1")
    assert found is not None
    return found


async def test_an_answer_leaves_a_receipt() -> None:
    receipts = ReceiptRing()
    sent = await send(Handle(ANSWER), receipts=receipts)
    one = only(receipts)
    assert (one.replica, one.label, one.claim, one.cached_tokens) == ("a", "engine-a", "claimed", 4)
    assert one.ttft_s == sent.ttft_s
    assert [attempt.outcome for attempt in one.attempts] == ["answered"]
    assert one.regret_s == max(0.0, sent.ttft_s - 0.2)


async def test_a_receipt_has_all_attempts_those_lost_later_included() -> None:
    receipts, tries = ReceiptRing(), Tries()
    sender = Sender(cast(Any, Routing()), Handle((ANSWER[0], died()), (died(),), ANSWER), receipts)
    sent = await sender.send(PROMPT, CALL, "r1", UNTENANTED, tries)
    tries.lose(sent.replica)
    await sender.send(PROMPT, CALL, "r1", UNTENANTED, tries)
    one = only(receipts)
    assert [(attempt.replica, attempt.outcome) for attempt in one.attempts] == [
        ("a", "cut-short"), ("b", "lost"), ("c", "answered"),
    ]  # fmt: skip
    assert (one.replica, one.label, one.claim) == ("c", "engine-c", "none")


@pytest.mark.parametrize(
    ("script", "error", "outcome"),
    [
        ((died(),), ReplicaLostError, "lost"),
        ((EngineRefusal("too odd", "prompt"),), InvalidRequestError, "refused"),
        (BackPressureError(num_queued_requests=9, max_queued_requests=9), OverloadedError, "overloaded"),
        ((task_error(KeyError("x")),), RayTaskError, "failed"),
        ((), ReplicaLostError, "failed"),
    ],
)
async def test_a_call_that_nobody_answered_leaves_a_receipt_too(
    script: Any, error: type[Exception], outcome: str
) -> None:
    receipts = ReceiptRing()
    with pytest.raises(error):
        await send(Handle(*[script] * 3), receipts=receipts)
    one = only(receipts)
    assert {attempt.outcome for attempt in one.attempts} == {outcome}
    assert (one.replica, one.ttft_s) == ("", None)


async def test_a_client_that_goes_away_leaves_no_claim_and_a_receipt() -> None:
    import asyncio

    waits = asyncio.Event()

    class Full(Handle):
        @asynccontextmanager
        async def choose_replica(self, rank: list[str]) -> AsyncIterator[Any]:
            waits.set()
            await asyncio.Event().wait()
            yield None

    routing, receipts = Routing(), ReceiptRing()
    task = asyncio.create_task(send(Full(), routing, receipts))
    await waits.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert routing.events == ["claim a", "withdraw a"]
    assert only(receipts).attempts[0].outcome == "cancelled"


async def test_claims_and_decision_times_are_counted() -> None:
    def counted(name: str, **labels: str) -> float:
        return METRICS.registry.get_sample_value(name, labels) or 0.0

    def now() -> list[float]:
        claims = [counted("aloraserve_claims_total", outcome=outcome) for outcome in ("claimed", "moved")]
        stages = [counted("aloraserve_decision_seconds_count", stage=stage) for stage in ("lookup", "policy", "claim")]
        return claims + stages

    before = now()
    sent = await send(Handle(ANSWER, given="b"))
    await cast(Any, sent.replies).aclose()
    assert [new - old for new, old in zip(now(), before, strict=True)] == [1, 1, 1, 1, 1]


async def test_closing_the_chunks_unread_cancels_the_call() -> None:
    handle = Handle((*ANSWER, *ANSWER))
    sent = await send(handle)
    await cast(Any, sent.replies).aclose()
    assert handle.streams[0].cancelled


async def test_nobody_waits_long_for_a_replica_where_none_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    class Nobody(Handle):
        @asynccontextmanager
        async def choose_replica(self, rank: list[str]) -> AsyncIterator[Any]:
            await asyncio.sleep(60)
            yield None

    class Unknown(Routing):
        async def place(self, call: Call, claim_id: str, *, avoid: Collection[str] = ()) -> Placement:
            return Placement(Decision("fallback", "nobody is there", ()))

    monkeypatch.setattr(exchange, "NO_REPLICA_TIMEOUT_S", 0.05)
    with pytest.raises(OverloadedError, match=r"within 0\.05 s"):
        await send(Nobody(), Unknown())
