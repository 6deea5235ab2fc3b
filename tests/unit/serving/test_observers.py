"""What observers learn of a call, in order."""

from __future__ import annotations

from typing import Any, cast

import pytest
from support.fake_pool import ANSWER, DiedError, FakePool, FakeRouter, request

from aloraserve.errors import ReplicaLostError
from aloraserve.routing.placement import Placement
from aloraserve.serving.attempt import Attempt
from aloraserve.serving.attempts import Dispatcher
from aloraserve.serving.engine_messages import EngineChunk
from aloraserve.serving.generation import Generation
from aloraserve.serving.observers import EVENTS, CallObserver, CallObservers
from aloraserve.serving.request import GenerationRequest


class Diary(CallObserver):
    """Writes every event down."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def accepted(self, request: GenerationRequest) -> None:
        self.events.append(f"accepted {request.id}")

    def placed(self, request: GenerationRequest, placement: Placement) -> None:
        self.events.append(f"placed {placement.replica}")

    def claim_moved(self, request: GenerationRequest, placement: Placement) -> None:
        self.events.append(f"moved {placement.replica}")

    def first_token(self, generation: Generation) -> None:
        self.events.append(f"first {generation.replica}")

    def more_tokens(self, generation: Generation, chunk: EngineChunk, itl_s: float | None) -> None:
        self.events.append(f"more {chunk.text}{'' if itl_s is None else ' timed'}")

    def answered(self, generation: Generation) -> None:
        self.events.append(f"answered {generation.replica}")

    def ended(self, attempt: Attempt, generation: Generation | None) -> None:
        self.events.append(f"ended {attempt.outcome} {generation.tokens if generation else 'unanswered'}")


async def followed(pool: FakePool, *, is_streamed: bool) -> list[str]:
    """Return the events of a call that is read to its end."""
    diary = Diary()
    generation = await Dispatcher(cast(Any, FakeRouter()), pool, [diary]).generate(request(is_streamed=is_streamed))
    try:
        async for _ in generation:
            pass
    except ReplicaLostError:
        diary.events.append("told the client")
    return diary.events


async def test_a_streamed_answer_begins_with_its_first_token() -> None:
    assert await followed(FakePool(ANSWER), is_streamed=True) == [
        "accepted r1", "placed a", "first a", "answered a", "more y timed", "ended answered 2",
    ]  # fmt: skip


async def test_an_answer_that_is_not_streamed_begins_when_it_is_whole() -> None:
    assert await followed(FakePool((ANSWER[0], DiedError()), ANSWER), is_streamed=False) == [
        "accepted r1",
        "placed a", "first a", "ended cut-short 1",
        "placed b", "first b", "more y timed", "ended answered 2",
        "answered b",
    ]  # fmt: skip


async def test_a_stream_that_is_lost_amid_was_answered_and_is_not_whole() -> None:
    assert (await followed(FakePool((ANSWER[0], DiedError())), is_streamed=True))[-4:] == [
        "first a", "answered a", "ended cut-short 1", "told the client",
    ]  # fmt: skip


async def test_a_replica_that_is_lost_unheard_ends_its_attempt_alone() -> None:
    assert (await followed(FakePool((DiedError(),), ANSWER), is_streamed=True))[:5] == [
        "accepted r1", "placed a", "ended lost unanswered", "placed b", "first b",
    ]  # fmt: skip


async def test_a_claim_that_moves_is_an_event() -> None:
    assert "moved b" in await followed(FakePool(ANSWER, given="b"), is_streamed=False)


async def test_only_the_first_choice_s_gaps_are_timed_per_token() -> None:
    chunks = (ANSWER[0], EngineChunk(1, "other", 1), EngineChunk(0, "", 0), EngineChunk(0, "yz", 2, "stop"))
    events = await followed(FakePool(chunks), is_streamed=True)
    assert [event for event in events if event.startswith("more")] == ["more other", "more ", "more yz timed"]


def test_several_observers_are_asked_in_order_and_only_for_what_they_want() -> None:
    class Counter(CallObserver):
        def accepted(self, request: GenerationRequest) -> None:
            second.events.append("counted")

    first, second = Diary(), Diary()
    observers = CallObservers([first, Counter(), second])
    observers.accepted(request())
    assert first.events == ["accepted r1"]
    assert second.events == ["counted", "accepted r1"]
    assert CallObservers([Counter()]).accepted.__name__ == "accepted", "one observer is called without a detour"


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_is_handed_on(event: str) -> None:
    heard: list[str] = []
    observer = type("Hearing", (CallObserver,), {event: lambda self, *_: heard.append(event)})()
    getattr(CallObservers([observer, CallObserver()]), event)("x", "y", "z")
    assert heard == [event]
    assert {name for name, value in vars(CallObserver).items() if callable(value)} == set(EVENTS)
