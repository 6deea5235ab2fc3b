from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from support.fake_pool import ANSWER, DiedError, FakePool, FakeRouter, request

from aloraserve.routing.base import Decision, Estimate
from aloraserve.routing.placement import Placement
from aloraserve.scaling.base import Demand
from aloraserve.scaling.memory import MemoryBoard
from aloraserve.serving.attempts import Dispatcher
from aloraserve_services.gateway.demand import DemandCounter, DemandReports


def placement(overlap_tokens: int, prefill_s: float) -> Placement:
    estimate = Estimate("a", "engine-a", 9.0, overlap_tokens, 500, queue_s=8.0, prefill_s=prefill_s)
    return Placement(Decision("p", "", (estimate,)), "a")


def test_calls_count_with_what_their_replica_has_to_prefill() -> None:
    counter = DemandCounter(lambda: 3, lambda: True, clock=lambda: 7.5)
    counter.arrived(request(), placement(6, 0.5))
    counter.arrived(request(), placement(0, 2.0))
    counter.arrived(request(), Placement(Decision("fallback", "", ())))
    demand = counter.demand()
    assert (demand.calls, demand.uncached_tokens, demand.time_s) == (3, 2 + 8 + 8, 7.5)
    assert (demand.prefill_s, demand.prefill_squares_s2) == pytest.approx((2.5, 4.25))
    assert (demand.waiting, demand.held) == (3, 0)
    assert demand.unestimated == 1


def test_without_a_replica_the_calls_that_wait_are_held() -> None:
    assert DemandCounter(lambda: 3, lambda: False).demand().held == 3


def test_each_start_of_a_gateway_is_another_one() -> None:
    assert DemandCounter(int, bool).demand().gateway != DemandCounter(int, bool).demand().gateway


async def test_a_call_counts_once_however_many_replicas_are_lost_under_it() -> None:
    counter = DemandCounter(int, bool)
    pool = FakePool([DiedError("gone")], ANSWER)
    generation = await Dispatcher(cast(Any, FakeRouter()), pool, [counter]).generate(request())
    async for _ in generation:
        pass
    demand = counter.demand()
    assert (demand.calls, demand.answers, demand.ended_tokens) == (1, 1, demand.answer_tokens)


async def test_every_token_of_an_answer_counts() -> None:
    counter = DemandCounter(int, bool)
    dispatcher = Dispatcher(cast(Any, FakeRouter()), FakePool(ANSWER), [counter])
    tokens = [chunk.tokens async for chunk in await dispatcher.generate(request())]
    assert counter.demand().answer_tokens == sum(tokens) > 1
    assert counter.demand().answers == 1


async def test_the_board_has_the_counts_while_the_gateway_runs() -> None:
    board = _Board()
    async with DemandReports(DemandCounter(int, bool), board).running():
        await board.published.wait()
    assert [demand.calls for demand in await board.demands()] == [0]


class _Board(MemoryBoard):
    """Notes that something was published."""

    def __init__(self) -> None:
        super().__init__()
        self.published = asyncio.Event()

    async def publish(self, demand: Demand, **options: Any) -> None:
        await super().publish(demand, **options)
        self.published.set()
