from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloraserve.blocks import KeySpace
from aloraserve.diagnosis.account import FRESH_S, Ladder, MissCause, ReuseAccount, ReuseAccountant
from aloraserve.diagnosis.window import DiagnosisWindow, summed
from aloraserve.directory.base import Candidate, ReplicaLoad, ReplicaState
from aloraserve.routing.base import Call, Decision, Estimate
from aloraserve.routing.placement import FallbackCause, Placement

BLOCK = 16
SPACE = KeySpace("model", "tokenizer", BLOCK)
LONG_AGO, NOW = 1000.0, 2000.0


def call(blocks: int, seed: int = 0, **options: object) -> Call:
    source = random.Random(seed)
    tokens = [source.randrange(1000) for _ in range(blocks * BLOCK + 1)]
    return Call(len(tokens), BLOCK, SPACE.keys(tokens), **options)  # type: ignore[arg-type]


def candidate(replica: str, held: int = 0, about: int = 0, kv_blocks: int = 10_000) -> Candidate:
    state = ReplicaState(replica, "1", load=ReplicaLoad(kv_tokens=kv_blocks * BLOCK))
    return Candidate(state, held, max(held, about))


def placement(
    candidates: Sequence[Candidate], chosen: str = "a", fallback: FallbackCause | None = None, **parts: dict[str, float]
) -> Placement:
    """The chosen one first; ``parts`` of each replica's estimate by its name."""
    estimates = [
        Estimate(
            one.state.replica, one.state.replica, 0.1, one.claimed_blocks * BLOCK, 0, **parts.get(one.state.replica, {})
        )
        for one in sorted(candidates, key=lambda one: one.state.replica != chosen)
    ]
    return Placement(Decision("p", "r", tuple(estimates)), chosen, fallback=fallback, candidates=candidates)


def account(
    one: Call,
    placed: Placement,
    cached_blocks: int = 0,
    *,
    computed: Call | None = None,
    computed_s: float = LONG_AGO,
    replica: str = "a",
    **options: object,
) -> ReuseAccount:
    """Account for a call, after another one was computed."""
    accountant = ReuseAccountant()
    if computed is not None:
        accountant.account(computed, placed, replica, 0, computed_s)
    found = accountant.account(one, placed, replica, cached_blocks * BLOCK, NOW, **options)  # type: ignore[arg-type]
    assert found.ladder.endless - found.ladder.delivered == sum(
        tokens for cause, tokens in found.missed.items() if cause is not MissCause.SALTED
    )
    return found


def missed(**blocks: int) -> dict[MissCause, int]:
    return {MissCause(cause): count * BLOCK for cause, count in blocks.items()}


def test_a_new_prompt_misses_nothing() -> None:
    found = account(call(10), placement([candidate("a"), candidate("b")]))
    assert (found.ladder, found.missed) == (Ladder(prompt=161), {})


def test_what_is_delivered_is_on_every_rung() -> None:
    found = account(call(40), placement([candidate("a", 40)]), 40, computed=call(40))
    assert (found.ladder, found.missed) == (Ladder(641, *(640,) * 5), {})


def test_the_last_token_is_never_counted() -> None:
    """It has to be computed for the answer."""
    one = Call(64, BLOCK, SPACE.keys(range(64)))
    found = account(one, placement([candidate("a", 4)]), 3, computed=one)
    assert found.ladder == Ladder(64, 48, 48, 48, 64 - 16, 48)
    assert found.missed == {}


@pytest.mark.parametrize(
    ("parts", "cause"),
    [
        ({"b": {"queue_s": 2.0}}, "queue"),
        ({"b": {"slot_s": 2.0, "adapter_s": 1.0}}, "queue"),
        ({"b": {"adapter_s": 2.0, "queue_s": 1.0}}, "adapter"),
        ({"b": {"memory_s": 2.0}}, "memory"),
        ({}, "queue"),
    ],
)
def test_a_holder_that_was_not_chosen_says_why(parts: dict[str, dict[str, float]], cause: str) -> None:
    placed = placement([candidate("a", 8), candidate("b", 40)], **parts)
    found = account(call(50), placed, 8)
    assert found.missed == missed(**{cause: 32})
    assert found.ladder == Ladder(801, 640, 640, 640, 128, 128)


def test_a_replica_that_was_full_sent_the_call_away() -> None:
    placed = placement([candidate("a", 40), candidate("b")])
    assert account(call(50), placed, 0, replica="b").missed == missed(full=40)
    assert account(call(50), placed, 0, replica="unknown").missed == missed(full=40)


def test_what_another_call_is_about_to_compute_is_in_flight() -> None:
    elsewhere = placement([candidate("a"), candidate("b", 10, about=40)])
    assert account(call(50), elsewhere).missed == missed(queue=10, in_flight=30)
    here = placement([candidate("a", 10, about=40)])
    assert account(call(50), here, 10).missed == missed(in_flight=30)
    assert account(call(50), here, 40).missed == {}, "it had computed it by then"


def test_what_the_directory_promised_and_the_engine_had_not_was_evicted() -> None:
    assert account(call(50), placement([candidate("a", 40)]), 16).missed == missed(evicted=24)


def test_what_nobody_holds_any_more_was_evicted_and_what_is_seconds_old_not_published() -> None:
    nobody = placement([candidate("a")])
    assert account(call(50), nobody, computed=call(50)).missed == missed(evicted=50)
    young = account(call(50), nobody, computed=call(50), computed_s=NOW - FRESH_S / 2)
    assert young.missed == missed(unpublished=50)


def test_what_no_fleet_of_this_size_could_have_kept_is_below_the_capacity() -> None:
    small = placement([candidate("a", kv_blocks=40), candidate("b", kv_blocks=40)])
    accountant = ReuseAccountant()
    accountant.account(call(64), small, "a", 0, LONG_AGO)
    accountant.account(call(64, seed=1), small, "a", 0, LONG_AGO)
    found = accountant.account(call(64), small, "a", 0, NOW)
    assert found.ladder[:3] == (64 * BLOCK + 1, 64 * BLOCK, 0)
    assert found.missed == missed(evicted=64)


def test_without_the_directory_everything_that_is_missed_is_missed_for_that() -> None:
    blind = placement([candidate("a"), candidate("b")], fallback=FallbackCause.SLOW)
    assert account(call(50), blind, 8, computed=call(50)).missed == missed(fallback=42)
    assert account(call(50), blind, 50, computed=call(50)).missed == {}


def test_an_engine_that_had_more_than_the_directory_knew_lifts_the_rungs() -> None:
    found = account(call(50), placement([candidate("a", 8)]), 40)
    assert (found.ladder, found.missed) == (Ladder(801, *(640,) * 5), {})


def test_a_plain_lora_is_told_what_the_base_model_had() -> None:
    base = call(50)
    own = Call(base.prompt_tokens, BLOCK, call(50, seed=9).keys, adapter="lora")
    placed = placement([candidate("a")])
    found = account(own, placed, computed=base, base_keys=base.keys)
    assert found.missed == missed(salted=50)
    assert found.ladder.endless == 0
    again = account(own, placed, 50, computed=own, base_keys=base.keys)
    assert again.missed == {}


@given(
    held=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=4),
    chosen=st.integers(0, 3),
    answers=st.integers(0, 3),
    cached=st.integers(0, 50),
    is_known=st.booleans(),
    age_s=st.floats(0, 100),
    fallback=st.sampled_from([None, FallbackCause.SLOW]),
)
def test_every_missed_token_has_one_cause_and_rungs_go_down(
    held: list[tuple[int, int]],
    chosen: int,
    answers: int,
    cached: int,
    is_known: bool,
    age_s: float,
    fallback: FallbackCause | None,
) -> None:
    names = [chr(ord("a") + number) for number in range(len(held))]
    candidates = [candidate(name, *blocks) for name, blocks in zip(names, held, strict=True)]
    placed = placement(candidates, names[chosen % len(names)], fallback)
    found = account(
        call(50),
        placed,
        cached,
        computed=call(50) if is_known else None,
        computed_s=NOW - age_s,
        replica=names[answers % len(names)],
    )
    rungs = found.ladder
    assert list(rungs) == sorted(rungs, reverse=True)
    assert min(found.missed.values(), default=1) > 0


def test_a_window_sums_up_whole_minutes_and_gateways_add_up() -> None:
    window = DiagnosisWindow()
    one = ReuseAccount(Ladder(100, 90, 80, 70, 60, 50), {MissCause.QUEUE: 10, MissCause.EVICTED: 30})
    for second in (0, 30, 61, 119, 125):
        window.add(one, 6000.0 + second)
    now = 6125.0
    assert [window.totals(60 * minutes, now)["calls"] for minutes in (1, 2, 3)] == [1, 3, 5]
    whole = window.totals(3600, now)
    assert whole["ladder"]["delivered"] == 250
    assert whole["missed"]["queue"] == 50
    assert whole["missed"]["salted"] == 0
    both = summed([whole, window.totals(60, now)])
    assert (both["calls"], both["ladder"]["prompt"], both["missed"]["evicted"]) == (6, 600, 180)
    assert window.totals(60, now + 86_400)["calls"] == 0


def test_a_window_is_bounded() -> None:
    window = DiagnosisWindow()
    for minute in range(2000):
        window.add(ReuseAccount(Ladder(1)), 60.0 * minute)
    assert window.totals(10**9, 60.0 * 2000)["calls"] == 24 * 60 + 1
