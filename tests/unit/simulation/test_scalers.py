"""The rules that ours is compared with do what their sources say."""

from __future__ import annotations

from collections.abc import Iterable

from aloraserve.directory.base import ReplicaLoad, ReplicaState
from aloraserve.scaling.base import FleetReading, Scaler
from aloraserve.simulation.scalers.pod_autoscaler import PodAutoscaler
from aloraserve.simulation.scalers.serve_default import ServeDefault


def targets(scaler: Scaler, readings: Iterable[FleetReading]) -> list[int]:
    return [scaler.decide(reading).target for reading in readings]


def reading(time_s: float, running: int, *, ongoing: int = 0, starting: int = 0, usage: float = 0.0) -> FleetReading:
    states = [ReplicaState(str(at), "1", load=ReplicaLoad(kv_usage=usage)) for at in range(running)]
    return FleetReading(time_s, running, starting, states, ongoing=ongoing)


def test_serves_rule_wants_ongoing_requests_by_the_target_after_its_delay() -> None:
    serve = ServeDefault(1, 8, target_ongoing_requests=4, upscale_delay_s=5, downscale_delay_s=20)
    found = targets(serve, (reading(float(at), 2, ongoing=17) for at in range(8)))
    assert found[:5] == [2] * 5
    assert found[5] == 5
    serve = ServeDefault(1, 8, target_ongoing_requests=4, upscale_delay_s=5, downscale_delay_s=20)
    found = targets(serve, (reading(float(at), 4, ongoing=4) for at in range(25)))
    assert found.index(1) == 20


def test_the_pod_autoscaler_wants_the_mean_by_its_target_every_15_seconds() -> None:
    pods = PodAutoscaler(1, 8, metric="kv-usage", target=0.3, stabilization_s=60)
    found = targets(pods, (reading(float(at), 2, usage=0.6) for at in range(16)))
    assert found == [4, *[2] * 14, 4]


def test_the_pod_autoscaler_leaves_small_differences_alone() -> None:
    pods = PodAutoscaler(1, 8, metric="kv-usage", target=0.3, stabilization_s=60)
    assert targets(pods, [reading(0.0, 2, usage=0.32)]) == [2]


def test_pods_without_a_metric_count_as_idle() -> None:
    pods = PodAutoscaler(1, 8, metric="kv-usage", target=0.3, stabilization_s=60)
    assert targets(pods, [reading(0.0, 2, starting=2, usage=0.6)]) == [4]


def test_the_pod_autoscaler_lowers_only_to_the_most_of_its_window() -> None:
    pods = PodAutoscaler(1, 8, metric="kv-usage", target=0.3, stabilization_s=60)
    usages = [0.3, 0.01, 0.01, 0.01, 0.01, 0.01]
    assert targets(pods, (reading(15.0 * at, 4, usage=usage) for at, usage in enumerate(usages))) == [4] * 5 + [1]
