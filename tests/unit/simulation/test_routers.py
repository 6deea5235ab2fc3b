"""Each peer's formula on cases computed by hand, and what its key scheme makes of adapters."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from itertools import count

import pytest

from aloraserve.blocks import BlockKey
from aloraserve.simulation.base import ReplicaView, SimulatedCall, VisibleFleet
from aloraserve.simulation.routers import BASELINES, SALTED
from aloraserve.simulation.routers.aibrix import AIBrix
from aloraserve.simulation.routers.dynamo import Dynamo
from aloraserve.simulation.routers.formula import Formula
from aloraserve.simulation.routers.llm_d import LlmD
from aloraserve.simulation.routers.llm_d_sticky import LlmDSticky
from aloraserve.simulation.routers.ray_prefix_affinity import RayPrefixAffinity
from aloraserve.simulation.routers.sglang import SGLang

BLOCK_TOKENS = 16
NUMBERS = count()
NAMES = sorted(BASELINES)


def chain(parts: Sequence[object], salt: str = "") -> list[BlockKey]:
    keys, parent = [], salt.encode()
    for part in parts:
        parent = hashlib.blake2b(parent + str(part).encode() + b"/", digest_size=16).digest()
        keys.append(parent)
    return keys


def call(
    parts: Sequence[object], adapter: str | None = None, *, output_tokens: int = 1, tail_tokens: int = 0
) -> SimulatedCall:
    """A call of whole blocks named ``parts``; an adapter is an aLoRA's, activated in the last block."""
    shared = chain(parts)
    exact = shared if adapter is None else [*shared[:-1], *chain([parts[-1]], f"{adapter}{shared[-2:-1]}")]
    return SimulatedCall(
        request=next(NUMBERS),
        arrival_s=0.0,
        session="s",
        adapter=adapter,
        kind="base" if adapter is None else "alora",
        prompt_tokens=len(parts) * BLOCK_TOKENS + tail_tokens,
        output_tokens=output_tokens,
        block_tokens=BLOCK_TOKENS,
        key_source=lambda: exact,
        content_source=lambda: shared,
        salted_source=lambda: chain(parts, adapter or ""),
    )


def fleet(in_flight: Sequence[int], *, capacity_blocks: int = 1000) -> VisibleFleet:
    views = [ReplicaView(i, capacity_blocks, 256, 2, in_flight=load) for i, load in enumerate(in_flight)]
    return VisibleFleet(views, list(range(len(views))), BLOCK_TOKENS)


def run(router: Formula, one: SimulatedCall, replica: int, *, answer: Sequence[BlockKey] = ()) -> None:
    """Let a call that was chosen for ``replica`` run there to its end, with the KV events that belong to it."""
    router.observe(replica, one.keys, (), 0.0)
    router.first_token(one, replica, 0.0)
    router.observe(replica, answer, (), 0.0)
    router.finished(one, replica, 0.0)


def settle(router: Formula, one: SimulatedCall, view: VisibleFleet, replica: int) -> None:
    """Make the router send a call to ``replica`` and run it there: nothing else is alive meanwhile."""
    alive, view.alive = view.alive, [replica]
    router.choose(one, view, 0.0)
    view.alive = alive
    run(router, one, replica)


LONG = [f"long {i}" for i in range(10)]
OTHER = [f"other {i}" for i in range(10)]


@pytest.mark.parametrize("name", NAMES)
def test_a_repeated_prompt_goes_where_it_was_while_loads_are_even(name: str) -> None:
    view = fleet([0] * 4)
    router = BASELINES[name](1, view)
    settle(router, call(LONG), view, 2)
    assert router.choose(call([*LONG, "next"]), view, 1.0) == 2


@pytest.mark.parametrize("name", NAMES)
def test_adapters_share_a_prefix_only_where_the_router_is_blind(name: str) -> None:
    """The base model's prompt is on replica 1, the adapter's own on 2: a blind router cannot tell them apart."""
    view = fleet([0] * 4)
    router = BASELINES[name](1, view)
    settle(router, call(LONG), view, 1)
    chosen = {router.choose(call([*LONG[:9], f"go {i}"], f"adapter {i}"), view, 100.0 * i) for i in range(1, 5)}
    if name in SALTED:
        assert chosen != {1}
    else:
        assert chosen == {1}


@pytest.mark.parametrize("name", sorted(SALTED))
def test_a_salted_router_finds_an_adapters_own_prefix(name: str) -> None:
    view = fleet([0] * 4)
    router = BASELINES[name](1, view)
    settle(router, call(LONG), view, 1)
    settle(router, call([*LONG, "go"], "a"), view, 2)
    assert router.choose(call([*LONG, "go", "on"], "a"), view, 100.0) == 2
    assert router.choose(call([*LONG, "on"]), view, 100.0) == 1


@pytest.mark.parametrize("name", NAMES)
def test_choices_are_among_the_living_and_repeat_with_the_seed(name: str) -> None:
    def choices() -> list[int]:
        view = fleet([0] * 5)
        view.alive = [0, 2, 4]
        router = BASELINES[name](7, view)
        out = []
        for turn in range(60):
            one = call([f"conversation {turn % 7}", *range(turn % 11)], None if turn % 3 else "a")
            out.append(router.choose(one, view, turn * 0.1))
            view.replicas[out[-1]].in_flight += 1
            if turn % 2:
                run(router, one, out[-1])
                view.replicas[out[-1]].in_flight -= 1
            if turn == 30:
                router.lost(2, 3.0)
                view.alive = [0, 4]
        return out

    first = choices()
    assert set(first[:31]) <= {0, 2, 4}
    assert set(first[31:]) <= {0, 4}
    assert first == choices()


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_shorter_than_a_block_is_sent_somewhere(name: str) -> None:
    view = fleet([0, 0])
    router = BASELINES[name](1, view)
    one = call([], tail_tokens=5)
    chosen = router.choose(one, view, 0.0)
    assert chosen in (0, 1)
    run(router, one, chosen)


@pytest.mark.parametrize("name", NAMES)
def test_a_lost_replica_is_not_preferred_when_it_comes_back_empty(name: str) -> None:
    view = fleet([0, 0, 0])
    router = BASELINES[name](1, view)
    settle(router, call(LONG), view, 1)
    settle(router, call(LONG), view, 2)
    router.lost(1, 1.0)
    chosen = router.choose(call(LONG), view, 100.0)
    assert chosen != 1 if name == "sglang" else chosen == 2  # SGLang's tree here names one replica a block


@pytest.mark.parametrize("name", [name for name in NAMES if name != "sglang"])  # which takes the first of equally idle
def test_work_does_not_all_go_to_one_replica(name: str) -> None:
    view = fleet([0] * 4)
    router = BASELINES[name](1, view)
    chosen: Counter[int] = Counter()
    for turn in range(80):
        one = call([f"conversation {turn}", *range(4)])
        replica = router.choose(one, view, turn * 3.0)
        chosen[replica] += 1
        run(router, one, replica)
    assert max(chosen.values()) <= 40


# Ray


def test_ray_takes_the_idler_of_the_replicas_with_the_longest_prefix() -> None:
    view = fleet([0, 5, 3])
    router = RayPrefixAffinity(1, view)
    settle(router, call(LONG), view, 1)
    settle(router, call(LONG), view, 2)
    settle(router, call(LONG[:5]), view, 0)
    assert router.choose(call(LONG), view, 0.0) == 2


def test_ray_takes_the_smallest_tree_when_less_than_a_tenth_matches() -> None:
    view = fleet([0, 0])
    router = RayPrefixAffinity(1, view)
    settle(router, call(LONG), view, 0)
    settle(router, call(OTHER[:9]), view, 1)
    eleven = [LONG[0], *(f"new {i}" for i in range(10))]
    assert router.choose(call(eleven[:10]), view, 0.0) == 0  # 1 of 10 blocks is a tenth
    assert router.choose(call(eleven), view, 0.0) == 0  # its own prompt now
    assert router.choose(call([LONG[0], *(f"newer {i}" for i in range(10))]), view, 0.0) == 1


def test_ray_ignores_load_unless_a_threshold_is_set() -> None:
    view = fleet([100, 0, 0])
    settled = call(LONG)
    always, bounded = RayPrefixAffinity(1, view), RayPrefixAffinity(1, view, imbalanced_threshold=10)
    for router in (always, bounded):
        settle(router, settled, view, 0)
    assert always.choose(call(LONG), view, 0.0) == 0
    assert all(bounded.choose(call(LONG), view, 0.0) != 0 for _ in range(10))


def test_ray_sends_an_adapters_call_to_the_replicas_with_the_fewest_adapters() -> None:
    view = fleet([0, 0, 0])
    view.replicas[0].adapters = frozenset({"a", "b"})
    view.replicas[1].adapters = frozenset({"b"})
    view.replicas[2].adapters = frozenset({"c"})
    router = RayPrefixAffinity(1, view)
    for replica in (0, 1):
        settle(router, call(LONG), view, replica)
    assert router.choose(call(LONG, "a"), view, 0.0) == 1
    assert router.choose(call(LONG), view, 0.0) == 0


# Dynamo


def test_dynamo_weighs_blocks_to_prefill_against_blocks_in_use() -> None:
    """Replica 0 holds 4 of 10 blocks: 6 + active 10; replica 1 none: 10 + 10. Equal once 0 has 4 active blocks more."""
    view = fleet([0, 0])
    for busy, expected in ((3, 0), (5, 1)):
        router = Dynamo(1, view)
        settle(router, call(LONG[:4]), view, 0)
        blocker = call(OTHER[:busy])
        view.alive = [0]
        router.choose(blocker, view, 0.0)
        router.first_token(blocker, 0, 0.0)  # its prefill is over, its blocks are in use
        view.alive = [0, 1]
        assert router.choose(call(LONG), view, 0.0) == expected


def test_dynamo_counts_a_queued_prompt_twice_until_its_first_token() -> None:
    """A queued call of 2 blocks costs 2 to prefill and 2 in use, against 3 held blocks of the new prompt."""
    view = fleet([0, 0])
    for first_token, expected in ((False, 1), (True, 0)):
        router = Dynamo(1, view)
        settle(router, call(LONG[:3]), view, 0)
        blocker = call(OTHER[:2])
        view.alive = [0]
        router.choose(blocker, view, 0.0)
        if first_token:
            router.first_token(blocker, 0, 0.0)
        view.alive = [0, 1]
        assert router.choose(call(LONG), view, 0.0) == expected


def test_dynamo_counts_shared_active_blocks_once() -> None:
    """Two running calls with the new prompt's 10 blocks cost 10; one with 8 others costs 18 (prefill is equal)."""
    view = fleet([0, 0])
    router = Dynamo(1, view)
    for replica, prompts in ((0, [LONG, LONG]), (1, [OTHER[:8]])):
        for parts in prompts:
            view.alive = [replica]
            one = call(parts)
            router.choose(one, view, 0.0)
            router.first_token(one, replica, 0.0)  # no KV events: nothing is held
    view.alive = [0, 1]
    assert router.choose(call(LONG), view, 0.0) == 0


def test_dynamo_keeps_active_blocks_of_adapters_apart() -> None:
    """A running call of another adapter with the same text shares none: 20 blocks; 5 others give 15."""
    view = fleet([0, 0])
    router = Dynamo(1, view)
    for replica, one in ((0, call(LONG, "a")), (1, call(OTHER[:5], "a"))):
        view.alive = [replica]
        router.choose(one, view, 0.0)
        router.first_token(one, replica, 0.0)
    view.alive = [0, 1]
    assert router.choose(call(LONG, "b"), view, 0.0) == 1


@pytest.mark.parametrize(("others", "expected"), [(6, 0), (4, 1)])
def test_dynamo_frees_the_blocks_that_only_an_ended_call_had(others: int, expected: int) -> None:
    """Of calls with 10 and with the first 5 of these blocks, the longer one ends: 5 stay in use."""
    view = fleet([0, 0])
    router = Dynamo(1, view)
    calls = [(0, call(LONG)), (0, call(LONG[:5])), (1, call(OTHER[:others]))]
    for replica, one in calls:
        view.alive = [replica]
        router.choose(one, view, 0.0)
        router.first_token(one, replica, 0.0)
    router.finished(calls[0][1], 0, 0.0)
    view.alive = [0, 1]
    assert router.choose(call(["new"]), view, 0.0) == expected


def test_dynamo_forgets_evicted_blocks() -> None:
    view = fleet([0, 0])
    router = Dynamo(1, view)
    one = call(LONG)
    settle(router, one, view, 0)
    settle(router, call(LONG[:2]), view, 1)
    router.observe(0, (), one.keys[1:], 0.0)
    assert router.choose(call(LONG), view, 0.0) == 1


def test_dynamo_sees_blocks_that_an_answer_filled() -> None:
    """Both replicas had the prompt; the answer, 2 blocks of the next prompt, was made on 1, which has 1 in use."""
    view = fleet([0, 0])
    router = Dynamo(1, view)
    settle(router, call(LONG), view, 0)
    view.alive = [1]
    first, following = call(LONG, output_tokens=2 * BLOCK_TOKENS), call([*LONG, "answer", "answer 2", "next"])
    router.choose(first, view, 0.0)
    run(router, first, 1, answer=following.keys[10:12])
    busy = call(["busy"])
    router.choose(busy, view, 0.0)
    router.first_token(busy, 1, 0.0)
    view.alive = [0, 1]
    assert router.choose(following, view, 0.0) == 1


def test_dynamo_draws_by_softmax_of_the_costs_range() -> None:
    """Costs 10 and 20: with temperature 1 the dearer one is drawn with 1 / (1 + e)."""
    view = fleet([0, 0])
    drawn: Counter[int] = Counter()
    router = Dynamo(1, view, temperature=1.0)
    settle(router, call(LONG), view, 0)
    for _ in range(2000):
        one = call(LONG)
        drawn[router.choose(one, view, 0.0)] += 1
        router.finished(one, 0, 0.0)
        router.finished(one, 1, 0.0)
    assert drawn[1] / 2000 == pytest.approx(1 / (1 + math.e), abs=0.04)


def test_dynamo_takes_a_retried_call_off_the_first_replica() -> None:
    view = fleet([0, 0])
    router = Dynamo(1, view)
    one = call(OTHER)
    view.alive = [0]
    router.choose(one, view, 0.0)
    view.alive = [1]
    router.choose(one, view, 0.0)
    router.finished(one, 0, 0.0)  # the failed attempt's end says nothing of the second
    view.alive = [0, 1]
    assert router.choose(call(LONG), view, 0.0) == 0


# llm-d


def test_llm_d_adds_weighted_scores() -> None:
    """0 holds half the prompt: 2 * 0.9 + 2 * 0 + 3 * 0.5 + 1 = 4.3; 1 is idle: 2 * 1 + 2 * 1 + 0 + 1 = 5."""
    view = fleet([0, 0])
    router = LlmD(1, view)
    settle(router, call(LONG[:5]), view, 0)
    view.replicas[0].kv_usage = 0.1
    view.replicas[0].waiting = 1
    assert router.choose(call(LONG), view, 100.0) == 1


def test_llm_d_scores_queues_between_the_shortest_and_the_longest() -> None:
    """0 holds it all: 2 + 2 * (4 - 3) / (4 - 0) + 3 + 1 = 6.5, the idle 2 gets 5; with 0 the longest it is 6 to 5."""
    view = fleet([0, 0, 0])
    router = LlmD(1, view)
    settle(router, call(LONG[:4]), view, 0)
    view.replicas[0].waiting, view.replicas[1].waiting = 3, 4
    # 0: 2 + 0.5 + 3 * 4 / 10 + 1 = 4.7; 2: 2 + 2 + 0 + 1 = 5
    assert router.choose(call(LONG), view, 100.0) == 2
    view.replicas[0].waiting = 2
    # 0: 2 + 1 + 1.2 + 1 = 5.2
    assert router.choose(call([*LONG[:9], "x"]), view, 200.0) == 0


def test_llm_d_spreads_cold_prompts_over_the_least_recently_so_used() -> None:
    view = fleet([0, 0, 0])
    router = LlmD(1, view)
    chosen = [router.choose(call([f"cold {i}"]), view, 100.0 * i) for i in range(6)]
    assert chosen == [0, 1, 2, 0, 1, 2]


def test_llm_d_leaves_the_order_alone_when_a_prompt_is_warm() -> None:
    view = fleet([0, 0])
    router = LlmD(1, view)
    for replica, parts in ((0, LONG), (1, OTHER)):
        settle(router, call(parts), view, replica)
    assert router.choose(call(LONG), view, 100.0) == 0
    assert router.choose(call(["cold"]), view, 200.0) == 0


@pytest.mark.parametrize(("kv_usage", "expected"), [(0.5, 1), (0.4, 0)])
def test_llm_d_weighs_kv_usage_against_the_prefix(kv_usage: float, expected: int) -> None:
    """0 holds 3 of 10: 2 * 0.5 + 2 + 0.9 + 1 = 4.9, or 2 * 0.6 + 2 + 0.9 + 1 = 5.1; the empty one gets 5."""
    view = fleet([0, 0])
    router = LlmD(1, view)
    settle(router, call(LONG[:3]), view, 0)
    view.replicas[0].kv_usage = kv_usage
    assert router.choose(call(LONG), view, 100.0) == expected


def test_llm_d_counts_a_decision_as_held_for_a_while() -> None:
    view = fleet([0, 0])
    router = LlmD(1, view)
    first = router.choose(call(LONG), view, 0.0)
    assert router.choose(call(LONG), view, 1.0) == first
    assert router.choose(call(LONG), view, 20.0) != first  # cold again, and it is the other's turn


def test_llm_d_weighs_adapters_if_asked_to() -> None:
    view = fleet([0, 0, 0])
    view.replicas[0].active_adapters = frozenset({"x", "y"})
    view.replicas[1].active_adapters = frozenset({"a", "x"})
    router = LlmD(1, view, adapter_weight=10.0)
    assert router.choose(call(LONG, "a"), view, 0.0) == 1
    assert router.choose(call(OTHER, "b"), view, 0.0) == 2  # room for one more


# llm-d, sticky until saturated


def test_llm_d_sticky_takes_the_least_loaded_of_the_sticky_ones() -> None:
    view = fleet([0, 0, 0])
    router = LlmDSticky(1, view)
    settle(router, call(LONG[:8]), view, 0)
    settle(router, call(LONG[:7]), view, 1)
    view.alive = [0]
    router.choose(call(OTHER), view, 100.0)
    view.alive = [0, 1, 2]
    assert router.choose(call(LONG), view, 200.0) == 0  # 8 of 10 is sticky, though it is the only loaded one
    assert router.choose(call([*LONG[:7], "x", "y", "z"]), view, 300.0) != 0  # 0 holds 7 of 10 as 1 does, and is loaded


def test_llm_d_sticky_lets_go_when_the_sticky_ones_are_too_far_behind() -> None:
    """A queue of 160 tokens at 16 a second is 10 s."""
    view = fleet([0, 0])
    for max_penalty_s, expected in ((11.0, 0), (9.0, 1)):
        router = LlmDSticky(1, view, max_penalty_s=max_penalty_s, peak_prefill_tokens_per_s=16.0)
        settle(router, call(LONG[:8]), view, 0)
        view.alive = [0]
        router.choose(call(OTHER), view, 0.0)
        view.alive = [0, 1]
        assert router.choose(call(LONG), view, 100.0) == expected


def test_llm_d_sticky_counts_uncached_tokens_until_the_first_token() -> None:
    view = fleet([0, 0])
    router = LlmDSticky(1, view)
    view.alive = [0]
    blocker = call(OTHER)
    router.choose(blocker, view, 0.0)
    view.alive = [0, 1]
    assert [router.choose(call([f"new {i}"]), view, 0.0) for i in range(9)] == [1] * 9
    router.first_token(blocker, 0, 0.0)
    assert router.choose(call(["new"]), view, 0.0) == 0


# AIBrix


def test_aibrix_takes_the_highest_whole_percentage_then_the_lowest_load() -> None:
    """Of 300 blocks, 1 holds 200 (66 %) and 2 holds 198 (66 %): equal, so load decides; 0 holds 150 (50 %)."""
    parts = [f"p {i}" for i in range(300)]
    view = fleet([1, 2, 1], capacity_blocks=10_000)
    router = AIBrix(1, view, deviation_factor=100.0)
    for replica, held in ((0, 150), (1, 200), (2, 198)):
        settle(router, call(parts[:held]), view, replica)
    assert router.choose(call(parts), view, 0.0) == 2


def test_aibrix_passes_over_a_match_above_the_mean_and_a_deviation() -> None:
    """Loads 4, 0, 0, 0: mean 1, sample deviation 2, so 4 is too much; loads 5, 3, 0: 2.67 + 2.52 allows 5."""
    view = fleet([4, 0, 0, 0])
    router = AIBrix(1, view)
    settle(router, call(LONG), view, 0)
    assert router.choose(call(LONG), view, 0.0) != 0
    view = fleet([5, 3, 0])
    router = AIBrix(1, view)
    settle(router, call(LONG), view, 0)
    assert router.choose(call(LONG), view, 0.0) == 0


@pytest.mark.parametrize(
    ("loads", "fires"),
    [([16, 0, 0, 8], True), ([7, 0, 0, 0], False), ([15, 0, 0, 14], False), ([8, 0, 0, 1], True)],
)
def test_aibrix_gates_matches_when_loads_are_severely_uneven(loads: list[int], fires: bool) -> None:
    """16 > 2 * (6 + 1) and 8 > 2 * (2.25 + 1), with gaps of 8 and more: fires. 7 is no gap, 15 < 2 * (7.25 + 1)."""
    view = fleet(loads)
    router = AIBrix(1, view, deviation_factor=100.0)
    settle(router, call(LONG), view, 3)
    assert (router.choose(call(LONG), view, 0.0) == 3) != fires


def test_aibrix_forgets_after_its_age() -> None:
    view = fleet([1, 1, 0])
    router = AIBrix(1, view, deviation_factor=100.0)
    settle(router, call(LONG), view, 0)
    assert router.choose(call(LONG), view, 1100.0) == 0
    assert router.choose(call(LONG), view, 4000.0) == 2


# SGLang


def test_sglang_needs_more_than_three_tenths_of_the_prompt() -> None:
    view = fleet([0, 0, 3])
    router = SGLang(1, view)
    settle(router, call(LONG[:4]), view, 2)
    assert router.choose(call([*LONG[:3], *OTHER[:7]]), view, 0.0) == 0
    assert router.choose(call([*LONG[:4], *OTHER[:6]]), view, 0.0) == 2


def test_sglang_names_the_first_replica_that_was_sent_a_prefix() -> None:
    view = fleet([5, 4, 0])
    router = SGLang(1, view)
    settle(router, call(LONG), view, 0)
    settle(router, call(LONG), view, 1)
    assert router.choose(call(LONG), view, 0.0) == 0
    router.lost(0, 0.0)
    settle(router, call(LONG), view, 1)
    assert router.choose(call(LONG), view, 0.0) == 1


@pytest.mark.parametrize(("loads", "expected"), [([64, 0], 0), ([65, 0], 1), ([300, 200], 0), ([301, 200], 1)])
def test_sglang_takes_the_least_loaded_when_both_thresholds_are_exceeded(loads: list[int], expected: int) -> None:
    view = fleet(loads)
    router = SGLang(1, view)
    settle(router, call(LONG), view, 0)
    assert router.choose(call(LONG), view, 0.0) == expected


def test_sglang_remembers_what_it_sent_while_loads_were_uneven() -> None:
    view = fleet([65, 0])
    router = SGLang(1, view)
    assert router.choose(call(LONG), view, 0.0) == 1
    view.replicas[0].in_flight = 0
    view.replicas[1].in_flight = 1
    assert router.choose(call(LONG), view, 0.0) == 1


def test_sglang_keeps_who_was_first_when_its_tree_is_full() -> None:
    """A bound of 60 blocks: LONG is sent again while others push out what was not."""
    view = fleet([0, 0], capacity_blocks=10)
    router = SGLang(1, view)
    settle(router, call(LONG), view, 1)
    for i in range(20):
        settle(router, call([f"filler {i} {j}" for j in range(8)]), view, 0)
        settle(router, call(LONG), view, 0)
        assert router.choose(call(LONG), view, 0.0) == 1
