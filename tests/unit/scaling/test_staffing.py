"""How many replicas a load needs: never more for less, enough for each objective."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aloraserve.scaling.base import Reason
from aloraserve.scaling.staffing import FleetLoad, needed

LOAD = FleetLoad(
    calls_per_s=20, prefill_s_per_s=2.0, decode_s_per_s=2.0, call_prefill_s=0.1, call_squares_s2=0.02, step_s=0.006
)
FACTORS = st.floats(1.0, 5.0)


def fewest(load: FleetLoad, ttft_s: float = 2.0, itl_s: float = 0.1) -> tuple[int, Reason]:
    return needed(load, ttft_objective_s=ttft_s, itl_objective_s=itl_s, most=1000)


@settings(max_examples=60, deadline=None)
@given(
    FACTORS,
    st.sampled_from(["prefill_s_per_s", "decode_s_per_s", "call_squares_s2", "late_backlog_s", "used_replicas"]),
)
def test_more_of_anything_needs_no_fewer(factor: float, part: str) -> None:
    load = replace(LOAD, late_backlog_s=5.0, start_s=10.0, used_replicas=3.0)
    assert fewest(replace(load, **{part: getattr(load, part) * factor}))[0] >= fewest(load)[0]


def test_what_is_needed_meets_the_objectives_and_one_fewer_does_not() -> None:
    count, _ = fewest(LOAD)
    assert LOAD.ttft_s(count) <= 2.0
    assert LOAD.itl_s(count) <= 0.1
    assert LOAD.busy_at_times > 0.94 * (count - 1)


def test_nothing_needs_nobody() -> None:
    assert fewest(FleetLoad())[0] == 0


def test_a_large_fleet_needs_a_smaller_share_of_head_room() -> None:
    small, large = replace(LOAD), replace(LOAD, calls_per_s=800, prefill_s_per_s=80, decode_s_per_s=80)
    assert fewest(large)[0] / large.busy < fewest(small)[0] / small.busy


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"late_backlog_s": 500.0, "start_s": 20.0}, Reason.BACKLOG),
        ({"used_replicas": 30.0}, Reason.KV_CACHE),
        ({"call_share": 1 / 8, "call_answer_tokens": 500.0}, Reason.KV_CACHE),
        ({"call_share": 1 / 8, "call_answer_tokens": 50.0, "waiting": 4000.0, "start_s": 20.0}, Reason.BACKLOG),
        ({"step_s": 0.09}, Reason.ITL),
    ],
)
def test_the_reason_is_what_asks_for_most(changes: dict[str, float], reason: Reason) -> None:
    assert fewest(replace(LOAD, **changes))[1] is reason


def test_an_objective_that_no_number_meets_asks_for_nothing() -> None:
    assert fewest(replace(LOAD, step_s=0.2))[0] == fewest(LOAD, itl_s=0.0)[0]
    slow = replace(LOAD, call_prefill_s=3.0, calls_per_s=0.5, prefill_s_per_s=1.5, call_squares_s2=10.0)
    assert fewest(slow)[0] < 20


def test_too_much_to_do_waits_for_ever() -> None:
    assert LOAD.wait_s(4) == math.inf
    assert LOAD.itl_s(2) == math.inf


def test_a_prefill_so_short_that_its_square_is_nothing_has_a_wait() -> None:
    load = replace(LOAD, call_prefill_s=1e-194, call_squares_s2=0.0, prefill_s_per_s=1e-193)
    assert 0 <= load.wait_s(3) < 1e-190
