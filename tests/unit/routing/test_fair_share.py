"""Turns of tenants in an engine's queue."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloraserve.routing.fair_share import MAX_PRIORITY, FairQueue, QueuedCall, TenantShare, Turn
from aloraserve.routing.scheduling import Scheduling

STEP_TOKENS = 1000


def queued(
    call: int, tenant: str = "a", *, weight: float = 1.0, prefill_s: float = 0.1, at_s: float = 0.0, **changes: int
) -> QueuedCall[int]:
    own_s = Scheduling().number_s(prefill_s, at_s)
    share = TenantShare(tenant, weight, **changes)
    return QueuedCall(call, share, prefill_s, round(1000 * prefill_s), own_s)


class ModelEngine:
    """Begins the waiting call with the lowest number, one after the other."""

    def __init__(self, scheduling: Scheduling | None = None) -> None:
        self.queue = FairQueue[int](scheduling or Scheduling(), STEP_TOKENS)
        self.waiting: list[tuple[float, int]] = []
        self.calls: dict[int, QueuedCall[int]] = {}
        self.served: list[int] = []
        self.seconds: Counter[str] = Counter()

    def add(self, call: QueuedCall[int]) -> None:
        self.calls[call.call] = call
        self._take(self.queue.add(call))

    def serve(self) -> QueuedCall[int]:
        _, number = heapq.heappop(self.waiting)
        call = self.calls.pop(number)
        self.served.append(number)
        self.seconds[call.share.tenant] += call.prefill_s  # type: ignore[assignment]
        self._take(self.queue.leave(number))
        return call

    def _take(self, turns: list[Turn[int]]) -> None:
        for turn in turns:
            heapq.heappush(self.waiting, (turn.number_s, turn.call))


CALLS = st.lists(st.tuples(st.floats(0, 5), st.floats(0, 100), st.integers(-5, 5)), max_size=30)


@given(calls=CALLS)
def test_without_tenants_the_engine_has_all_calls_by_their_own_numbers(calls: list[tuple[float, float, int]]) -> None:
    queue = FairQueue[int](Scheduling(), STEP_TOKENS)
    for number, (prefill_s, at_s, priority) in enumerate(calls):
        made = queued(number, "", prefill_s=prefill_s, at_s=at_s, priority=priority)
        expected_s = Scheduling().number_s(prefill_s, at_s) + priority
        assert queue.add(made) == [(number, pytest.approx(expected_s))]


@given(calls=CALLS, served=st.lists(st.integers(0, 3), max_size=30))
def test_a_tenant_alone_has_its_calls_served_in_the_order_that_they_have_without_tenants(
    calls: list[tuple[float, float, int]], served: list[int]
) -> None:
    orders = []
    for tenant in ("", "a"):
        engine = ModelEngine()
        for number, (prefill_s, at_s, priority) in enumerate(calls):
            engine.add(queued(number, tenant, prefill_s=prefill_s, at_s=at_s, priority=priority))
            for _ in range(served[number] if number < len(served) else 0):
                if engine.waiting:
                    engine.serve()
        while engine.waiting:
            engine.serve()
        orders.append(engine.served)
    assert orders[0] == orders[1]


def test_without_priorities_everybody_waits_in_the_order_of_arrival() -> None:
    queue = FairQueue[int](Scheduling("fcfs"), STEP_TOKENS)
    assert [queue.add(queued(n, "ab"[n % 2])) for n in range(50)] == [[Turn(n, 0.0)] for n in range(50)]


@pytest.mark.parametrize("lengths_s", [(0.1, 0.1), (1.0, 0.02), (0.02, 1.0)])
def test_prefill_seconds_are_shared_by_weight_whatever_the_calls_lengths(lengths_s: tuple[float, float]) -> None:
    engine = ModelEngine()
    number = 0
    for tenant, weight, prefill_s in (("a", 4.0, lengths_s[0]), ("b", 1.0, lengths_s[1])):
        for _ in range(round(60 / prefill_s)):
            number += 1
            engine.add(queued(number, tenant, weight=weight, prefill_s=prefill_s))
    while sum(engine.seconds.values()) < 50:
        engine.serve()
    assert engine.seconds["a"] / engine.seconds["b"] == pytest.approx(4.0, rel=0.1)


def test_a_tenant_that_comes_back_has_saved_nothing_up() -> None:
    engine = ModelEngine()
    for number in range(600):
        engine.add(queued(number, "a"))
    engine.add(queued(1000, "b"))
    for _ in range(300):
        engine.serve()
    for number in range(1001, 1600):
        engine.add(queued(number, "b", at_s=30.0))
    before = engine.seconds.copy()
    for _ in range(200):
        engine.serve()
    assert engine.seconds["b"] - before["b"] <= 0.75 * 20, "not all of the engine, for all the time it was away"
    assert engine.seconds["b"] - before["b"] >= 0.25 * 20


def test_a_newcomer_does_not_wait_for_all_that_was_there_before() -> None:
    engine = ModelEngine()
    for number in range(1000):
        engine.add(queued(number, "a", at_s=number / 10))
    engine.add(queued(2000, "b", at_s=100.0))
    for _ in range(3):
        engine.serve()
    assert 2000 in engine.served


def test_within_a_tenant_the_shortest_call_begins_first() -> None:
    engine = ModelEngine()
    engine.add(queued(0, "other", prefill_s=0.5))
    for number in range(1, 40):
        engine.add(queued(number, "a", prefill_s=1.0))
    engine.add(queued(99, "a", prefill_s=0.01))
    for _ in range(6):
        engine.serve()
    assert 99 in engine.served, "behind what the engine has already, before 35 that came earlier"


def test_a_requests_priority_moves_it_among_its_tenants_calls_only() -> None:
    engine = ModelEngine()
    for number in range(200):
        engine.add(queued(number, "ab"[number % 2], priority=-MAX_PRIORITY if number % 2 else 0))
    late = queued(500, "b", priority=-MAX_PRIORITY - 1)
    engine.add(late)
    for _ in range(100):
        engine.serve()
    assert abs(engine.seconds["a"] - engine.seconds["b"]) < 3.0
    assert 500 in engine.served


def test_a_tenants_priority_decides_who_begins_and_not_who_gets_more() -> None:
    engine = ModelEngine()
    for number in range(0, 2000, 2):
        engine.add(queued(number, "later", tenant_priority=1))
        engine.add(queued(number + 1, "now"))
    first = [engine.serve().share.tenant for _ in range(50)]
    assert first.count("now") > 45
    for _ in range(600):
        engine.serve()
    before = engine.seconds.copy()
    for _ in range(400):
        engine.serve()
    got = engine.seconds - before
    assert got["now"] == pytest.approx(got["later"], rel=0.1)


@pytest.mark.parametrize("ageing", [0.001, 0.05, 1.0])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (4.0, 1.0), (1000.0, 1.0), (1.0, 4.0)])
@pytest.mark.parametrize(("priorities", "bound_s"), [((-1000, 0), 60), ((0, 1000), 60), ((-1000, 1000), 120)])
def test_no_priority_keeps_another_tenant_out_for_longer_than_its_bound(
    ageing: float, weights: tuple[float, float], priorities: tuple[int, int], bound_s: float
) -> None:
    """However much the favoured one asks for, and however the other comes: at first, again and again, or with much."""
    engine = ModelEngine(Scheduling(ageing=ageing))
    calls = itertools.count()

    def ask(tenant: str, index: int) -> None:
        call = queued(next(calls), tenant, weight=weights[index], prefill_s=0.5, tenant_priority=priorities[index])
        engine.add(call)

    for _ in range(20):
        ask("favoured", 0)
    for _ in range(3):
        ask("other", 1)
        before = engine.seconds["favoured"]
        while engine.serve().share.tenant != "other":
            ask("favoured", 0)
        paid_s = 0.5 * weights[0] / weights[1] if engine.seconds["other"] > 0.5 else 0.0
        assert engine.seconds["favoured"] - before <= bound_s + paid_s + 3.0, "and what the engine had of it already"
    for _ in range(20):
        ask("other", 1)
    for _ in range(round(2 * bound_s)):
        ask(*(("favoured", 0) if engine.serve().share.tenant == "favoured" else ("other", 1)))
    before = engine.seconds.copy()
    for _ in range(1200):
        ask(*(("favoured", 0) if engine.serve().share.tenant == "favoured" else ("other", 1)))
    got = engine.seconds - before
    expected = weights[1] / sum(weights)
    assert got["other"] / sum(got.values()) == pytest.approx(expected, rel=0.1, abs=0.001)


def test_an_adapter_without_a_slot_does_not_hold_its_tenants_other_calls() -> None:
    queue = FairQueue[int](Scheduling(), STEP_TOKENS)
    queue.add(queued(0, "other"))
    given = [turn.call for n in range(1, 100) for turn in queue.add(queued(n)._replace(adapter="slotless"))]
    assert len(given) < 99
    assert [turn.call for turn in queue.add(queued(500))] == [500]


def test_a_call_that_is_given_up_leaves_nothing_behind() -> None:
    queue = FairQueue[int](Scheduling(), STEP_TOKENS)
    for number in range(100):
        queue.add(queued(number, "ab"[number % 2]))
    for number in random.Random(1).sample(range(100), 100):
        queue.leave(number)
        assert queue.leave(number) == []
    assert len(queue) == 0
    assert queue._tenants == {}


@given(
    steps=st.lists(
        st.tuples(st.sampled_from("abc"), st.floats(0.001, 2), st.sampled_from([None, "x"]), st.integers(0, 3)),
        max_size=80,
    ),
    seed=st.integers(0, 9),
)
def test_every_call_gets_one_turn_and_the_engine_never_idles(
    steps: list[tuple[str, float, str | None, int]], seed: int
) -> None:
    queue, chance = FairQueue[int](Scheduling(), STEP_TOKENS), random.Random(seed)
    given_out: list[int] = []
    here: set[int] = set()

    def take(turns: list[Turn[int]]) -> None:
        given_out.extend(turn.call for turn in turns)

    for number, (tenant, prefill_s, adapter, leaving) in enumerate(steps):
        here.add(number)
        take(queue.add(queued(number, tenant, prefill_s=prefill_s)._replace(adapter=adapter)))
        for _ in range(leaving):
            if in_engine := sorted(here & set(given_out)):
                gone = chance.choice(in_engine)
                here.remove(gone)
                take(queue.leave(gone))
        assert not here or here & set(given_out), "somebody's turn it is"
    while here:
        gone = chance.choice(sorted(here & set(given_out)))
        here.remove(gone)
        take(queue.leave(gone))
    assert sorted(given_out) == list(range(len(steps)))


def test_what_an_engine_has_of_a_tenant_is_bounded_while_others_wait() -> None:
    queue = FairQueue[int](Scheduling(), STEP_TOKENS)
    held: defaultdict[str, int] = defaultdict(int)
    for number in range(400):
        for turn in queue.add(queued(number, "ab"[number % 2])):
            held["ab"[turn.call % 2]] += 1
    assert max(held.values()) <= 2 * STEP_TOKENS // 100 + 1
