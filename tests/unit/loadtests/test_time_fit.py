"""A load test plays what its time allows, from what one call takes."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloraserve.wire.answer_stream import StreamedAnswer
from loadtests.pace import MAX_GROWTH, PROBE_TOKENS, Pace, Prefill, measure_pace
from loadtests.plan import LoadPlan, quick_phases
from loadtests.texts import Message
from loadtests.time_fit import MIN_LENGTH, TimeLimit, _ever_smaller, estimate_s, fit, time_limit

# As docs/benchmarks/loadtests.md has them, of a machine on which the quick test took ten minutes, two starts included.
MEASURED = Pace(Prefill(510, 0.81), Prefill(2010, 4.4), 0.043)
QUICK = LoadPlan(quick_phases())
paces = st.builds(
    lambda short_s, growth, token_s: Pace(Prefill(500, short_s), Prefill(2000, short_s * 4**growth), token_s),
    st.floats(0.01, 20),
    st.floats(0.8, 2.2),
    st.floats(0.001, 1),
)


def slower(pace: Pace, times: float) -> Pace:
    short, long = (found._replace(seconds=found.seconds * times) for found in (pace.short, pace.long))
    return Pace(short, long, pace.token_s * times)


def samples(plan: LoadPlan) -> int:
    return sum(phase.count * len(phase.lengths) * len(phase.pipelines) for phase in plan.phases)


def test_the_estimate_is_about_what_was_measured() -> None:
    assert estimate_s(QUICK, MEASURED) / 60 == pytest.approx(8.5, abs=1.5)


def test_prefill_grows_as_measured_and_never_faster_than_attention() -> None:
    assert MEASURED.prefill_s(510) == pytest.approx(0.81)
    assert MEASURED.prefill_s(2010) == pytest.approx(4.4)
    assert MEASURED.prefill_s(7500) > 7500 / 2010 * 4.4
    assert Pace(Prefill(500, 0.001), Prefill(2000, 9.0), 0.01).growth == MAX_GROWTH


def test_a_plan_that_fits_is_played_whole() -> None:
    assert fit(QUICK, MEASURED, 600) == QUICK


def test_a_slow_machine_plays_fewer_samples_before_it_plays_shorter_prompts() -> None:
    whole_s = estimate_s(QUICK, MEASURED)
    fitted = fit(QUICK, MEASURED, whole_s * 0.7)
    assert fitted == replace(QUICK, phases=tuple(replace(phase, count=2) for phase in QUICK.phases))
    slow = fit(QUICK, slower(MEASURED, 4), 600)
    assert estimate_s(slow, slower(MEASURED, 4)) <= 600
    assert {500, 2000} & set(slow.phases[0].lengths)
    assert max(max(phase.lengths) for phase in slow.phases) < 7500


@given(pace=paces, seconds=st.floats(-100, 3600))
def test_what_is_played_takes_no_longer_or_is_the_least_there_is(pace: Pace, seconds: float) -> None:
    fitted = fit(QUICK, pace, seconds)
    if estimate_s(fitted, pace) > seconds:
        (phase,) = fitted.phases
        assert (phase.count, len(phase.lengths)) == (1, 1)
        assert phase.lengths[0] < 2 * MIN_LENGTH
    estimates = [estimate_s(plan, pace) for plan in _ever_smaller(QUICK, pace)]
    assert all(later < earlier for earlier, later in pairwise(estimates))


@given(pace=paces, minutes=st.floats(1, 60))
def test_more_time_never_plays_less(pace: Pace, minutes: float) -> None:
    assert samples(fit(QUICK, pace, 60 * minutes)) <= samples(fit(QUICK, pace, 90 * minutes))


def test_what_starting_takes_is_part_of_the_time() -> None:
    begun = time.perf_counter() - 200
    fitted, said = TimeLimit(10, begun).fit(QUICK, MEASURED, further_starts=1)
    assert fitted == fit(QUICK, MEASURED, 200)
    assert "630 tokens/s for 510 tokens" in said
    assert (
        "The whole plan takes about 15.5 min; to fit 10 min, this is played in about 9.0: sync: 2 x 500, 2,000" in said
    )
    whole, said = TimeLimit(60).fit(QUICK, MEASURED, further_starts=1)
    assert whole == QUICK
    assert said.endswith("The whole plan takes about 8.9 min")


class Engine:
    """Answers as if it prefilled a word in a millisecond and generated a token in ten."""

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def models(self) -> list[str]:
        return ["base", "safety"]

    def chat(self, model: str, messages: list[Message], max_tokens: int) -> StreamedAnswer:
        self.prompts.append(" ".join(message["content"] for message in messages))
        words = len(self.prompts[-1].split())
        ttft_s = words / 1000
        return StreamedAnswer("", ttft_s, ttft_s + 0.01 * (max_tokens - 1), max_tokens, words, 0, "engine-0")

    def close(self) -> None:
        pass


def test_the_pace_is_measured_on_prompts_that_nobody_has_seen() -> None:
    engine = Engine()
    pace = measure_pace(engine)
    assert pace.token_s == pytest.approx(0.01)
    assert pace.prefill_s(1000) == pytest.approx(1.0)
    measure_pace(engine)
    assert len({prompt[:16] for prompt in engine.prompts if len(prompt) > 100}) == 4
    assert PROBE_TOKENS > 1


def test_only_the_quick_profile_is_fitted() -> None:
    assert time_limit("quick", None, None) is not None
    assert time_limit("quick", None, 3) is None
    assert time_limit("full", None, None) is None
    with pytest.raises(ValueError, match="full is played as it is"):
        time_limit("full", 5, None)
