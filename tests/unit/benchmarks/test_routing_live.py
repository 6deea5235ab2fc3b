"""The live comparison's parts: its conversations, and what it makes of the answers."""

from __future__ import annotations

import pytest
import typer

from aloraserve.engine_model.calibration import load
from aloraserve.wire.answer_stream import StreamedAnswer
from benchmarks.conversations import DOCUMENT_TOKENS, NEW_TOKENS, TURNS, conversations, hit_bound
from benchmarks.harness.calibrations import slowed
from benchmarks.routing_live import chosen_routers
from benchmarks.routing_result import RoutingBenchResult, verdicts


def test_equal_seeds_have_equal_conversations_and_a_rate_changes_only_their_starts() -> None:
    slow, fast = conversations(3, 1), conversations(6, 1)
    assert conversations(3, 1) == slow
    assert [(one.document, one.turns) for one in slow] == [(one.document, one.turns) for one in fast]
    assert [one.start_s for one in fast] == pytest.approx([one.start_s / 2 for one in slow])
    assert conversations(3, 2) != slow


def test_conversations_are_those_of_the_comparison() -> None:
    made = conversations(3, 0)
    assert len(made) == 72
    assert len({tuple(one.document) for one in made}) == 6
    assert {len(one.document) for one in made} == {DOCUMENT_TOKENS}
    assert {len(one.turns) for one in made} == {TURNS}
    lengths = [len(turn.token_ids) for one in made for turn in one.turns]
    assert NEW_TOKENS[0] <= min(lengths) < 80
    assert 380 < max(lengths) <= NEW_TOKENS[1]
    assert 20 < made[-1].start_s < 28


@pytest.mark.parametrize(("rate", "count"), [(0, 1), (-1, 1), (1, 0)])
def test_a_rate_or_count_that_is_not_positive_is_refused(rate: float, count: int) -> None:
    with pytest.raises(ValueError, match="have to be positive"):
        conversations(rate, 0, count)


def test_the_bound_is_below_the_target_because_loras_compute_again() -> None:
    assert hit_bound(conversations(3, 0), 16) == pytest.approx(0.9298, abs=1e-4)


def test_a_slower_engine_takes_longer_for_everything_and_holds_as_much() -> None:
    whole = load("h100-llama-3.1-8b")
    half = slowed(whole, 2)
    for part in ("prefill", "decode"):
        before, after = getattr(whole, part).model_dump(), getattr(half, part).model_dump()
        assert after == pytest.approx({name: 2 * value for name, value in before.items()})
    assert half.adapters.load_s == 2 * whole.adapters.load_s
    assert (half.kv_tokens, half.adapters.slots) == (whole.kv_tokens, whole.adapters.slots)


def test_the_gateway_s_latency_is_taken_off_call_by_call_and_times_are_the_model_s() -> None:
    answers = {
        f"c-{number}": StreamedAnswer("", ttft_s, ttft_s, 2, 100, cached, "engine-0", policy="expected-ttft")
        for number, (ttft_s, cached) in enumerate(((1.0, 0), (0.6, 90), (0.4, 60)))
    }
    served = {"c-0": 0.8, "c-1": 0.2, "c-2": 0.2}
    result = RoutingBenchResult("expected-ttft", 3.0, slowdown=2.0)
    result.sum_up(answers, {"c-0": "base", "c-1": "alora", "c-2": "lora"}, served)
    assert (result.calls, result.hit_share) == (3, pytest.approx(0.5))
    assert result.hit_share_by_kind == {"alora": 0.9, "base": 0.0, "lora": 0.6}
    assert (result.ttft_p50_s, result.ttft_p90_s) == pytest.approx((0.3, 0.5))
    assert (result.engine_ttft_p50_s, result.engine_ttft_p90_s) == pytest.approx((0.1, 0.4))
    assert (result.gateway_p50_s, result.gateway_p90_s) == pytest.approx((0.2, 0.4))
    assert result.base_ttft_p90_s == pytest.approx(0.4)


def test_own_arms_are_measured_against_the_best_other_router_at_each_rate() -> None:
    def run(arm: str, rate_per_s: float, p90_s: float, *, is_own: bool = True, hits: float = 0.9) -> RoutingBenchResult:
        found = RoutingBenchResult(arm, rate_per_s, is_own=is_own)
        found.ttft_p90_s, found.hit_share, found.hit_bound = p90_s, hits, 0.92
        return found

    runs = [
        run("ours", 3, 0.05),
        run("ours", 3, 0.09),
        run("ours", 3, 0.06, hits=0.91),
        run("slow", 3, 0.3, is_own=False),
        run("fast", 3, 0.055, is_own=False),
        run("ours", 6, 0.07, hits=0.95),
        run("fast", 6, 0.08, is_own=False),
    ]
    found = {figure.name: figure for figure in verdicts(runs)}
    assert found["TTFT p90, ours, 3/s"].value == pytest.approx(60)
    assert found["TTFT p90, ours, 3/s"].target == pytest.approx(55)
    assert {name: figure.is_met for name, figure in found.items()} == {
        "TTFT p90, ours, 3/s": False,
        "hits of the bound, ours, 3/s": False,
        "TTFT p90, ours, 6/s": True,
        "hits of the bound, ours, 6/s": True,
    }


def test_a_router_s_answers_do_not_say_what_its_engines_took() -> None:
    answers = {"c-0": StreamedAnswer("", 0.5, 0.6, 2, 100, 40, "")}
    result = RoutingBenchResult("sglang-router", 3.0, is_own=False)
    result.sum_up(answers, {"c-0": "base"}, {})
    assert (result.ttft_p90_s, result.hit_share, result.engine_ttft_p90_s) == (0.5, 0.4, 0.0)


def test_routers_are_all_unless_some_are_named() -> None:
    assert chosen_routers(None) == chosen_routers(["all"]) == ["sglang-router", "vllm-router", "vllm-router by session"]
    assert chosen_routers(["vllm-router"]) == ["vllm-router"]
    assert chosen_routers(["none"]) == []
    with pytest.raises(typer.BadParameter, match="'nginx'"):
        chosen_routers(["nginx"])
