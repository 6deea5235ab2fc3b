"""Autoscalers in simulated time: ours costs less and misses less than the rules it is compared with."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest

from aloraserve.engine_model.calibration import load
from aloraserve.errors import SettingsError
from aloraserve.scaling.base import ScalingRules
from aloraserve.simulation.load_shapes import SHAPES, reshaped_rows, shaped_rows
from aloraserve.simulation.scaled_fleet import Growth, ScaledResult
from aloraserve.simulation.scaling_study import (
    ALL,
    HPA,
    KEDA,
    OURS,
    SERVE,
    ScalerChoice,
    ScalingStudy,
    parse_scaler,
)
from aloraserve.simulation.trace import GeneratedTrace
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
    assert ours["missed_tokens"] <= 0.4 * newest["missed_tokens"]


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


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("aloraserve", ScalerChoice(OURS)),
        ("serve-default", ScalerChoice(SERVE, 2.0, 600.0, 30.0)),
        ("serve-default:12:60:0", ScalerChoice(SERVE, 12.0, 60.0)),
        ("hpa-kv-usage", ScalerChoice(HPA, 0.3, 300.0)),
        ("hpa-kv-usage:0.45:60", ScalerChoice(HPA, 0.45, 60.0)),
        ("keda-queue:0.5:180:waiting", ScalerChoice(KEDA, 0.5, 180.0, metric="waiting")),
        ("keda-queue:4", ScalerChoice(KEDA, 4.0, 300.0, metric="ongoing")),
        ("constant", ScalerChoice(ALL, 6.0)),
        ("constant:2", ScalerChoice(ALL, 2.0)),
    ],
)
def test_a_user_names_a_scaler_and_its_settings(text: str, choice: ScalerChoice) -> None:
    assert parse_scaler(text, 6) == choice


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("best", "scaler is 'best'; aloraserve"),
        ("aloraserve:3", "with settings all but the first"),
        ("hpa-kv-usage:0.3:60:1", "with settings all but the first"),
        ("hpa-kv-usage:much", "numbers are accepted after hpa-kv-usage"),
        ("hpa-kv-usage:nan", "a target above 0"),
        ("serve-default:2:-1", "times from 0 s"),
        ("keda-queue:8:60:latency", "waiting or ongoing"),
        ("constant:7", "at most 6 replicas"),
    ],
)
def test_a_scaler_that_makes_no_sense_is_refused(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_scaler(text, 6)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_trace_that_is_given_a_shape_keeps_its_rows_and_its_length(shape: str) -> None:
    rows = GeneratedTrace().rows(500, 1)
    found = reshaped_rows(rows, shape, 3)
    times = [row.arrival_s for row in found]
    assert [replace(row, arrival_s=0.0) for row in found] == [replace(row, arrival_s=0.0) for row in rows]
    assert times == sorted(times)
    assert times[0] == 0
    assert times[-1] == pytest.approx(rows[-1].arrival_s - rows[0].arrival_s)
    parts = [sum(begin <= time / times[-1] <= begin + 0.25 for time in times) for begin in (0.0, 0.4)]
    if shape != "bursty":
        assert parts[1] > 2 * parts[0]
    assert reshaped_rows(rows, shape, 3, duration_s=10.0)[-1].arrival_s == pytest.approx(10)


def test_a_trace_without_a_length_has_no_shape() -> None:
    rows = GeneratedTrace().rows(1, 1)
    with pytest.raises(SettingsError, match="come within 0 s"):
        reshaped_rows(rows, "diurnal", 0)


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
