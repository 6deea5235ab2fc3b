"""Autoscalers in simulated time: ours costs less and misses less than the rules it is compared with."""

from __future__ import annotations

import functools

import pytest

from aloraserve.engine_model.calibration import load
from aloraserve.errors import SettingsError
from aloraserve.scaling.base import ScalingRules
from aloraserve.simulation.load_shapes import SHAPES, shaped_rows
from aloraserve.simulation.scaled_fleet import Growth, ScaledResult
from aloraserve.simulation.scaling_study import OURS, SERVE, ScalerChoice, ScalingStudy
from aloraserve.simulation.workload import Workload, WorkloadSettings

RULES = ScalingRules(1, 4, ttft_objective_s=1.0, itl_objective_s=0.1, scale_down_cooldown_s=30)
STUDY = ScalingStudy(load("h100-llama-3.1-8b"), RULES, Growth(initial=1, start_s=20))


@functools.cache
def play(choice: ScalerChoice, duration_s: float = 240.0) -> tuple[dict[str, float], ScaledResult]:
    rows = shaped_rows("flash-crowd", 1, duration_s=duration_s, peak_per_s=2.4)
    return STUDY.run(choice, Workload(rows, WorkloadSettings(evaluators=1, lora_share=0.0)))


def test_ours_violates_less_for_less_than_serves_default_rule() -> None:
    ours, _ = play(ScalerChoice(OURS))
    serve, _ = play(ScalerChoice(SERVE, 12.0, 30.0))
    assert ours["violations"] <= serve["violations"] / 2
    assert ours["replica_hours"] <= serve["replica_hours"]


def test_what_a_replica_alone_has_is_handed_over_under_load() -> None:
    """By the live code, and within its bounds: not all of it."""
    ours, _ = play(ScalerChoice(OURS))
    newest, _ = play(ScalerChoice(OURS, by_worth=False, hand_over_s=0.0))
    assert ours["departures"] > 0
    assert ours["missed_tokens"] <= 0.6 * newest["missed_tokens"]


def test_every_call_is_answered_and_the_bounds_hold() -> None:
    figures, result = play(ScalerChoice(OURS))
    assert figures["calls"] == len(result.run.records)
    assert not result.run.cut
    assert all(record.e2e_s < float("inf") for record in result.run.records)
    assert all(RULES.min_replicas <= running + moving for _, running, moving in result.sizes)
    assert max(running for _, running, _ in result.sizes) <= RULES.max_replicas


def test_a_run_is_the_same_again() -> None:
    result, again = (play.__wrapped__(ScalerChoice(OURS), 40.0)[1] for _ in range(2))
    assert again.sizes == result.sizes
    assert again.replica_s == result.replica_s


def test_an_unknown_scaler_is_named_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="scaler is 'best'; aloraserve, serve-default"):
        ScalerChoice("best").scaler(RULES)


@pytest.mark.parametrize("shape", SHAPES)
def test_shaped_traffic_is_its_seeds_and_sorted(shape: str) -> None:
    rows = shaped_rows(shape, 3, duration_s=300, peak_per_s=1.0)
    assert rows == shaped_rows(shape, 3, duration_s=300, peak_per_s=1.0)
    assert rows != shaped_rows(shape, 4, duration_s=300, peak_per_s=1.0)
    assert [row.arrival_s for row in rows] == sorted(row.arrival_s for row in rows)


def test_a_crowd_comes_at_once_and_a_day_is_highest_at_noon() -> None:
    for shape, (low, high) in {"flash-crowd": ((0, 300), (400, 600)), "diurnal": ((0, 100), (450, 550))}.items():
        starts = {}
        for row in shaped_rows(shape, 0, duration_s=1000, peak_per_s=2.0):
            starts.setdefault(row.session, row.arrival_s)
        rates = [sum(start <= at < end for at in starts.values()) / (end - start) for start, end in (low, high)]
        assert rates[1] > 2 * rates[0]


@pytest.mark.parametrize(
    ("shape", "duration_s", "peak_per_s", "message"),
    [
        ("square", 100, 1.0, "shape is 'square'; diurnal, bursty, flash-crowd are accepted"),
        ("bursty", 0, 1.0, "duration_s is 0; 10 to 604800"),
        ("bursty", 100, float("nan"), "peak_per_s is nan; more than 0"),
    ],
)
def test_traffic_that_makes_no_sense_is_refused(shape: str, duration_s: float, peak_per_s: float, message: str) -> None:
    with pytest.raises(SettingsError, match=message.partition(";")[0]):
        shaped_rows(shape, 0, duration_s=duration_s, peak_per_s=peak_per_s)
