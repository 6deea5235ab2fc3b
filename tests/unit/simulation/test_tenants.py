"""Tenants of a modelled fleet of two gateways, one of which one tenant has for itself."""

from __future__ import annotations

import pytest
from support.small_engine import calibration

from aloraserve.engine_model.calibration import Calibration
from aloraserve.routing.scheduling import Scheduling, SchedulingPolicy
from aloraserve.simulation.fleet import FleetSettings, ModelledFleet
from aloraserve.simulation.router_names import router_factory
from aloraserve.simulation.tenants import TenantLoad, TenantWorkload, prefill_seconds

__all__ = ["calibration"]
SECONDS, WARM_S = 60.0, 5.0


def ratio(
    calibration: Calibration,
    lengths: tuple[tuple[int, int], tuple[int, int]],
    policy: SchedulingPolicy = "priority",
    *,
    shares: bool = True,
) -> float:
    """Return the prefill of the tenant of weight 4 for each second of the other's; both ask for all of the fleet."""
    loads = [
        TenantLoad("heavy", 4.0, 2.5e3 / sum(lengths[0]) * 2, lengths[0], ingress=(0,), output_tokens=1),
        TenantLoad("light", 1.0, 2.5e3 / sum(lengths[1]) * 2, lengths[1], ingress=(0, 1), output_tokens=1),
    ]
    fleet = ModelledFleet(
        FleetSettings(calibration, replicas=2, gateways=2, scheduling=Scheduling(policy)),
        TenantWorkload(loads, SECONDS, shares=shares),
        router_factory("expected-ttft"),
    )
    got = prefill_seconds(fleet.run().records, calibration.prefill.model, WARM_S, SECONDS)
    return got["heavy"] / got["light"]


@pytest.mark.parametrize("lengths", [((150, 250), (150, 250)), ((200, 800), (60, 100)), ((60, 100), (200, 800))])
def test_prefill_is_shared_by_weight_over_gateways_with_skewed_ingress(
    calibration: Calibration, lengths: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    assert ratio(calibration, lengths) == pytest.approx(4.0, rel=0.1)


def test_engines_that_do_not_know_tenants_share_by_demand(calibration: Calibration) -> None:
    lengths = ((150, 250), (150, 250))
    assert ratio(calibration, lengths, shares=False) < 1.5
    assert ratio(calibration, lengths, "fcfs") < 1.5
