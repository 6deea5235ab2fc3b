"""How many gateways Serve's controller is told to have."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from aloraserve_services.autoscaler.gateways import CALLS, GatewayPolicy


def context(reported: dict[str, float] | None, current: int = 2, target: int = 2) -> Any:
    """Return what Serve's policies are called with."""
    return SimpleNamespace(
        aggregated_metrics=None if reported is None else {CALLS: reported},
        current_num_replicas=current,
        target_num_replicas=target,
        config=SimpleNamespace(target_ongoing_requests=10.0),
    )


@pytest.mark.parametrize(
    ("reported", "wanted"),
    [({"a": 0, "b": 0}, 1), ({"a": 9, "b": 1}, 1), ({"a": 9, "b": 2}, 2), ({"a": 35, "b": 1}, 4), ({"a": 12}, 3)],
)
def test_there_is_a_gateway_for_so_many_calls_and_never_none(reported: dict[str, float], wanted: int) -> None:
    assert GatewayPolicy()(context(reported)) == (wanted, {})


@pytest.mark.parametrize("reported", [None, {}])
def test_without_reports_there_are_as_many_as_before(reported: dict[str, float] | None) -> None:
    assert GatewayPolicy()(context(reported, target=3))[0] == 3


def test_an_error_is_never_serves() -> None:
    broken = context({"a": 1})
    broken.config = None
    assert GatewayPolicy()(broken)[0] == 2
