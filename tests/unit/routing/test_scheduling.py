"""The numbers by which engines order calls: least work first, a bound on overtaking, and what vLLM's message holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloraserve.routing.scheduling import MAX_AGEING, MAX_PREFILL_S, MIN_AGEING, Scheduling

PREFILLS_S = st.floats(0, 1000)
CENTURY_S = 100 * 366 * 86_400.0


def test_of_calls_that_came_together_the_shortest_prefill_is_first() -> None:
    scheduling = Scheduling(ageing=0.05)
    assert scheduling.priority(0.5, 100.0) < scheduling.priority(0.6, 100.0)


def test_a_second_of_waiting_makes_up_for_its_share_of_prefill() -> None:
    scheduling = Scheduling(ageing=0.05)
    assert scheduling.priority(1.0, 100.0) == scheduling.priority(0.5, 110.0) == 6_000_000


@given(PREFILLS_S, PREFILLS_S, st.floats(0, 10_000), st.floats(MIN_AGEING, MAX_AGEING))
def test_nothing_overtakes_a_call_that_came_so_much_earlier(
    long_s: float, short_s: float, accepted_s: float, ageing: float
) -> None:
    scheduling = Scheduling(ageing=ageing)
    later_s = accepted_s + long_s / ageing
    assert scheduling.priority(short_s, later_s) >= scheduling.priority(long_s, accepted_s) - 1


def test_in_the_order_of_arrival_all_numbers_are_one() -> None:
    assert Scheduling("fcfs").priority(5.0, 100.0) == Scheduling("fcfs").priority(0.0, 900.0) == 0
    assert Scheduling("fcfs").published_ageing == 0
    assert Scheduling(ageing=0.25).published_ageing == 0.25


@given(st.floats(allow_nan=False), st.floats(0, CENTURY_S))
def test_a_number_fits_vllm_s_message_whatever_is_expected(prefill_s: float, accepted_s: float) -> None:
    priority = Scheduling(ageing=MAX_AGEING).priority(prefill_s, accepted_s)
    assert 0 <= priority < 2**63
    assert priority <= (MAX_PREFILL_S + CENTURY_S) * 1e6 + 1


@pytest.mark.parametrize("ageing", [0.0, -1.0, MAX_AGEING * 1.01, float("nan")])
def test_a_rate_that_makes_no_sense_is_refused(ageing: float) -> None:
    with pytest.raises(ValueError, match=r"ageing is .*; 0\.001 to 1 are accepted"):
        Scheduling(ageing=ageing)
