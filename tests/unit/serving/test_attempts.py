"""One call on its way: reserved, claimed, dispatched; withdrawn, retried or refused when that fails."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any, cast

import pytest
from support.fake_pool import ANSWER, DiedError, FakePool, FakeReservation, FakeRouter, FullError, request

from aloraserve.directory.base import Candidate, ReplicaState
from aloraserve.errors import AdapterNotLoadedError, InvalidRequestError, OverloadedError, ReplicaLostError
from aloraserve.routing.base import Call, Decision
from aloraserve.routing.placement import Placement
from aloraserve.routing.receipts import Outcome, Receipt, ReceiptRing
from aloraserve.serving import attempt
from aloraserve.serving.attempts import Dispatcher
from aloraserve.serving.engine_messages import EngineCall, EngineChunk, EngineRefusal, EngineUnavailable
from aloraserve.serving.generation import Generation
from aloraserve.serving.receipt_writer import ReceiptWriter
from aloraserve.serving.replica_pool import Replies
from aloraserve.serving.time_limits import TimeLimits
from aloraserve.tenants import Caller

TENANT = Caller("x", cache_salt="tenant:x")


async def send(
    pool: FakePool,
    router: FakeRouter | None = None,
    receipts: ReceiptRing | None = None,
    *,
    is_streamed: bool = True,
    limits: TimeLimits | None = None,
) -> Generation:
    observers = [ReceiptWriter(receipts)] if receipts is not None else []
    dispatcher = Dispatcher(cast(Any, router or FakeRouter()), pool, observers, limits)
    return await dispatcher.generate(request(caller=TENANT, is_streamed=is_streamed))


async def texts(generation: Generation) -> list[str]:
    return [chunk.text async for chunk in generation]


async def test_a_call_is_claimed_where_it_runs_and_its_chunks_come_in_order() -> None:
    pool, router = FakePool(ANSWER), FakeRouter()
    sent = await send(pool, router)
    assert (sent.replica, sent.label, sent.reason) == ("a", "engine-a", "holds 4 of 8 tokens")
    assert (sent.cached_tokens, sent.overlap_tokens) == (4, 4)
    assert await texts(sent) == ["x", "y"]
    (call,) = pool.calls
    assert (call.token_ids, call.cache_salt, call.adapter) == (list(range(8)), "tenant:x", None)
    assert router.claimed == {call.request_id: "a"}
    assert router.withdrawn == []
    assert not pool.streams[0].is_cancelled


async def test_a_call_says_what_another_replica_holds_of_its_prompt() -> None:
    """By it the replica that takes it learns what its own cache is worth to the fleet."""
    states = [ReplicaState(replica, "1") for replica in "abc"]
    held = [Candidate(state, held_blocks=blocks) for state, blocks in zip(states, (4, 3, 1), strict=True)]
    assert Placement(Decision("p", "", ()), candidates=held).held_elsewhere("a") == 3
    assert Placement(Decision("p", "", ()), candidates=held[:1]).held_elsewhere("a") == 0
    pool, router = FakePool(ANSWER), FakeRouter()
    router.candidates = held
    await texts(await send(pool, router))
    assert [call.elsewhere_tokens for call in pool.calls] == [3 * request().call.block_tokens]


async def test_a_generation_knows_what_can_be_had_without_waiting() -> None:
    """Its first chunk in any case, and others if its pool says so."""
    pool = FakePool(ANSWER)
    sent = await send(pool)
    assert sent.is_ready
    await anext(sent)
    assert not sent.is_ready, "Serve's own iterator does not know"
    pool.streams[0].is_ready = True
    assert sent.is_ready
    assert await texts(sent) == ["y"]


async def test_a_replica_that_dies_unheard_is_passed_over_and_its_claim_withdrawn() -> None:
    pool, router = FakePool((DiedError(),), ANSWER), FakeRouter()
    sent = await send(pool, router)
    assert pool.ranks == [["a", "b"], ["b"]]
    assert sent.replica == "b"
    assert sent.reason.startswith("next in rank: engine-a was full or lost")
    assert router.withdrawn == [pool.calls[0].request_id]
    assert pool.calls[0].request_id != pool.calls[1].request_id


async def test_an_answer_that_the_engine_cut_short_before_it_began_is_asked_for_again() -> None:
    pool = FakePool((EngineChunk(0, "", 0, "abort"),), ANSWER)
    assert (await send(pool)).replica == "b"


@pytest.mark.parametrize("end", [DiedError(), EngineChunk(0, "", 0, "error")])
async def test_an_answer_that_is_cut_short_after_it_began_says_so(end: Any) -> None:
    receipts = ReceiptRing()
    sent = await send(FakePool((ANSWER[0], end)), receipts=receipts)
    assert (await anext(sent)).text == "x"
    assert only(receipts).attempts[0].outcome == "answered"
    with pytest.raises(ReplicaLostError, match="incomplete"):
        await anext(sent)
    assert only(receipts).attempts[0].outcome == "cut-short"


async def test_after_three_losses_the_call_fails() -> None:
    pool, router = FakePool((DiedError(),), (DiedError(),), (DiedError(),), ANSWER), FakeRouter()
    with pytest.raises(ReplicaLostError, match="3 replicas were lost"):
        await send(pool, router)
    assert pool.ranks == [["a", "b"], ["b"], []]
    assert len(router.withdrawn) == 3


async def test_an_answer_that_is_not_streamed_is_generated_again_until_its_end() -> None:
    pool = FakePool((ANSWER[0], DiedError()), (DiedError(),), ANSWER, ANSWER)
    sent = await send(pool, is_streamed=False)
    assert (sent.replica, await texts(sent)) == ("c", ["x", "y"])
    assert pool.ranks == [["a", "b"], ["b"], []]
    assert pool.held == 0, "it is whole before anybody reads it"


async def test_attempts_are_three_however_the_replicas_are_lost() -> None:
    pool = FakePool((ANSWER[0], DiedError()), (DiedError(),), (ANSWER[0], EngineChunk(0, "", 0, "abort")), ANSWER)
    with pytest.raises(ReplicaLostError, match="3 replicas were lost before the answer was complete"):
        await send(pool, is_streamed=False)
    assert len(pool.ranks) == 3


async def test_a_fault_of_ours_is_not_tried_on_every_replica() -> None:
    pool, router = FakePool((KeyError("x"),), ANSWER), FakeRouter()
    with pytest.raises(KeyError):
        await send(pool, router)
    assert len(pool.calls) == 1
    assert router.withdrawn == [pool.calls[0].request_id]


async def test_a_timeout_inside_the_engine_is_not_an_overload() -> None:
    with pytest.raises(TimeoutError):
        await send(FakePool((TimeoutError("x"),)))


async def test_a_refusal_is_the_client_s_and_leaves_no_claim() -> None:
    pool, router = FakePool((EngineRefusal("too odd", "prompt"),)), FakeRouter()
    with pytest.raises(InvalidRequestError, match="too odd") as caught:
        await send(pool, router)
    assert caught.value.param == "prompt"
    assert router.withdrawn == [pool.calls[0].request_id]


async def test_an_adapter_that_cannot_be_loaded_fails_its_call_on_one_replica_alone() -> None:
    """Before, the call went to two more, and each engine that met the adapter's files ended."""
    refusal = EngineRefusal("adapter 'x' cannot be loaded: damaged", "model", is_adapter_fault=True)
    pool, router = FakePool((refusal,), ANSWER), FakeRouter()
    with pytest.raises(AdapterNotLoadedError, match="adapter 'x' cannot be loaded") as caught:
        await send(pool, router)
    assert caught.value.param == "model"
    assert len(pool.calls) == 1
    assert router.withdrawn == [pool.calls[0].request_id]


async def test_a_replica_without_the_adapter_s_version_is_passed_over_and_its_claim_withdrawn() -> None:
    behind = EngineUnavailable("a replica does not have it")
    pool, router = FakePool((behind,), ANSWER), FakeRouter()
    receipts = ReceiptRing()
    generation = await send(pool, router, receipts=receipts)
    assert await texts(generation) == ["x", "y"]
    assert [attempt.outcome for attempt in generation.attempt.records] == [Outcome.UNAVAILABLE, Outcome.ANSWERED]
    assert len(router.withdrawn) == 1


async def test_where_no_replica_has_the_adapter_s_version_the_error_says_so() -> None:
    behind = EngineUnavailable("a replica does not have it")
    with pytest.raises(ReplicaLostError, match="cannot be served now: a replica does not have it; retry later"):
        await send(FakePool((behind,), (behind,), (behind,)), FakeRouter())


async def test_a_full_queue_is_an_overload_whose_claim_is_withdrawn() -> None:
    router = FakeRouter()
    with pytest.raises(OverloadedError, match="too many requests are queued"):
        await send(FakePool(FullError()), router)
    assert router.events == ["claim a", "withdraw a"]


async def test_a_call_is_claimed_before_a_replica_is_reserved_for_it() -> None:
    class Watching(FakePool):
        @contextlib.asynccontextmanager
        async def reserve(self, rank: Sequence[str], share: Any = None) -> AsyncIterator[Any]:
            assert router.events == ["claim a"]
            async with super().reserve(rank) as held:
                yield held

    router = FakeRouter()
    await send(Watching(ANSWER), router)
    assert router.events == ["claim a"]


async def test_a_claim_follows_its_call_to_the_replica_that_took_it() -> None:
    router, receipts = FakeRouter(), ReceiptRing()
    sent = await send(FakePool(ANSWER, given="b"), router, receipts)
    assert await texts(sent) == ["x", "y"]
    assert router.events == ["claim a", "move b"]
    assert (sent.replica, sent.reason) == ("b", "next in rank: engine-a was full or lost (holds 4 of 8 tokens)")
    router = FakeRouter()
    with pytest.raises(KeyError):
        await send(FakePool((KeyError("x"),), given="b"), router)
    assert router.events == ["claim a", "move b", "withdraw b"]


class PassingOn(FakePool):
    """A pool whose replica a turns out to be full when it is sent the call, which goes to b."""

    @contextlib.asynccontextmanager
    async def reserve(self, rank: Sequence[str], share: Any = None) -> AsyncIterator[FakeReservation]:
        async with super().reserve(rank) as held:
            # What is passed on to b once stays there.
            def send(call: EngineCall) -> Replies:
                held.replica = "b"
                return FakeReservation.send(held, call)

            held.send = send  # type: ignore[method-assign]
            yield held


async def test_a_claim_follows_its_call_that_a_full_replica_passed_on() -> None:
    router = FakeRouter()
    sent = await send(PassingOn(ANSWER), router)
    assert await texts(sent) == ["x", "y"]
    assert sent.replica == "b"
    assert router.events == ["claim a", "move b"]
    router = FakeRouter()
    await send(PassingOn((DiedError(),), ANSWER), router)
    assert router.events[:3] == ["claim a", "move b", "withdraw b"], "b is lost, and not a"


async def test_a_claim_that_cannot_move_costs_the_answer_nothing() -> None:
    class Breaking(FakeRouter):
        async def move(self, call: Call, placement: Placement, replica: str, claim_id: str) -> Placement:
            raise KeyError("unforeseen")

    sent = await send(FakePool(ANSWER, given="b"), Breaking())
    assert await texts(sent) == ["x", "y"]


async def test_a_claim_that_expired_while_the_call_waited_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "CLAIM_TTL_S", 0.0)
    router = FakeRouter()
    sent = await send(FakePool(ANSWER), router)
    await sent.aclose()
    assert router.events == ["claim a", "move a"]


def only(receipts: ReceiptRing) -> Receipt:
    found = receipts.get("r1")
    assert found is not None
    return found


async def test_an_answer_leaves_a_receipt() -> None:
    receipts = ReceiptRing()
    sent = await send(FakePool(ANSWER), receipts=receipts)
    one = only(receipts)
    assert (one.replica, one.label, one.claim, one.cached_tokens) == ("a", "engine-a", "claimed", 4)
    assert one.ttft_s == sent.ttft_s
    assert [record.outcome for record in one.attempts] == ["answered"]
    assert one.regret_s == max(0.0, sent.ttft_s - 0.2)


async def test_a_receipt_has_all_attempts_those_lost_later_included() -> None:
    receipts = ReceiptRing()
    await send(FakePool((ANSWER[0], DiedError()), (DiedError(),), ANSWER), receipts=receipts, is_streamed=False)
    one = only(receipts)
    assert [(record.replica, record.outcome) for record in one.attempts] == [
        ("a", "cut-short"), ("b", "lost"), ("c", "answered"),
    ]  # fmt: skip
    assert (one.replica, one.label, one.claim) == ("c", "engine-c", "none")


@pytest.mark.parametrize(
    ("script", "error", "outcome"),
    [
        ((DiedError(),), ReplicaLostError, "lost"),
        ((EngineRefusal("too odd", "prompt"),), InvalidRequestError, "refused"),
        (FullError(), OverloadedError, "overloaded"),
        ((KeyError("x"),), KeyError, "failed"),
        ((), ReplicaLostError, "failed"),
    ],
)
async def test_a_call_that_nobody_answered_leaves_a_receipt_too(
    script: Any, error: type[Exception], outcome: str
) -> None:
    receipts = ReceiptRing()
    with pytest.raises(error):
        await send(FakePool(*[script] * 3), receipts=receipts)
    one = only(receipts)
    assert {record.outcome for record in one.attempts} == {outcome}
    assert (one.replica, one.ttft_s) == ("", None)


async def test_a_client_that_goes_away_leaves_no_claim_and_a_receipt() -> None:
    waits = asyncio.Event()

    class Full(FakePool):
        @contextlib.asynccontextmanager
        async def reserve(self, rank: Sequence[str], share: Any = None) -> AsyncIterator[Any]:
            waits.set()
            await asyncio.Event().wait()
            yield None

    router, receipts = FakeRouter(), ReceiptRing()
    task = asyncio.create_task(send(Full(), router, receipts))
    await waits.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert router.events == ["claim a", "withdraw a"]
    assert not router.in_flight
    assert only(receipts).attempts[0].outcome == "cancelled"


async def test_closing_the_chunks_unread_cancels_the_call() -> None:
    pool = FakePool((*ANSWER, *ANSWER))
    sent = await send(pool)
    await sent.aclose()
    assert pool.streams[0].is_cancelled


async def test_nobody_waits_longer_than_is_said_for_a_replica_where_none_is_known() -> None:
    class Nobody(FakePool):
        @contextlib.asynccontextmanager
        async def reserve(self, rank: Sequence[str], share: Any = None) -> AsyncIterator[Any]:
            await asyncio.sleep(60)
            yield None

    class Unknown(FakeRouter):
        async def place(self, call: Call, claim_id: str, *, avoid: Collection[str] = ()) -> Placement:
            return Placement(Decision("fallback", "nobody is there", ()))

    with pytest.raises(OverloadedError, match=r"within 0\.05 s"):
        await send(Nobody(), Unknown(), limits=TimeLimits(hold_s=0.05))


async def test_a_stream_that_is_closed_amid_frees_its_place_and_keeps_its_claim() -> None:
    pool, router, receipts = FakePool((*ANSWER[:1], *ANSWER)), FakeRouter(), ReceiptRing()
    sent = await send(pool, router, receipts)
    assert (await anext(sent)).text == "x"
    assert pool.held == 1
    await sent.aclose()
    assert (pool.held, pool.streams[0].is_cancelled, router.withdrawn) == (0, True, [])
    assert sent.attempt.outcome is Outcome.CANCELLED
    assert only(receipts).attempts[0].outcome == "answered"
    await sent.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(sent)


@pytest.mark.parametrize("script", [ANSWER, (DiedError(),), (EngineRefusal("x"),), (KeyError("x"),), ()])
@pytest.mark.parametrize("is_streamed", [True, False])
async def test_however_a_call_ends_no_place_stays_held(script: Any, is_streamed: bool) -> None:
    pool = FakePool(*[script] * 3)
    with contextlib.suppress(InvalidRequestError, KeyError, ReplicaLostError):
        await texts(await send(pool, is_streamed=is_streamed))
    assert pool.held == 0


@pytest.mark.parametrize("is_streamed", [True, False])
@pytest.mark.parametrize(
    "scripts",
    [
        (ANSWER,),
        ((ANSWER[0], DiedError()), ANSWER),
        ((ANSWER[0], EngineChunk(0, "", 0, "abort")), ANSWER),
        (DiedError(), ANSWER),
        (DiedError(),) * 3,
        ((EngineRefusal("too odd", "prompt"),),),
        (FullError(),),
        (KeyError("x"),),
        ((EngineUnavailable("not here"),), ANSWER),
        ((),),
    ],
    ids=lambda scripts: "-".join(str(part)[:30] for part in scripts),
)
async def test_a_call_is_in_flight_until_it_ends_in_whatever_way(scripts: Sequence[Any], is_streamed: bool) -> None:
    router = FakeRouter()
    with contextlib.suppress(InvalidRequestError, OverloadedError, ReplicaLostError, KeyError):
        sent = await send(FakePool(*scripts), router, is_streamed=is_streamed)
        assert len(router.in_flight) == is_streamed
        assert not router.unanswered
        await texts(sent)
    assert not router.in_flight
    assert not router.unanswered


async def test_a_call_whose_client_goes_away_amid_its_answer_is_not_in_flight() -> None:
    router = FakeRouter()
    sent = await send(FakePool(ANSWER), router)
    assert len(router.in_flight) == 1
    await sent.aclose()
    assert not router.in_flight


@pytest.mark.parametrize("fault_at", range(5))
@pytest.mark.parametrize("is_streamed", [True, False])
async def test_no_text_comes_twice_wherever_in_the_answer_the_replica_is_lost(is_streamed: bool, fault_at: int) -> None:
    words = ["a", "b", "c", "d"]
    answer = [EngineChunk(0, word, 1, "stop" if word == "d" else None) for word in words]
    seen: list[str] = []
    with contextlib.suppress(ReplicaLostError):
        generation = await send(FakePool((*answer[:fault_at], DiedError()), answer), is_streamed=is_streamed)
        async for chunk in generation:
            seen.append(chunk.text)
    # A stream that has begun ends where it was lost; anything else moves.
    assert seen == (words[:fault_at] if is_streamed and fault_at else words)
