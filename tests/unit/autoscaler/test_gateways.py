"""How many gateways Serve's controller is told to have."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from aloraserve_services.autoscaler import controller_log
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


def test_an_error_is_never_serves_and_logged_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    log = SimpleNamespace(error=lambda event, **values: logged.append(event))
    monkeypatch.setattr(controller_log, "controller_log", lambda: log)
    broken, policy = context({"a": 1}), GatewayPolicy()
    broken.config = None
    assert [policy(broken)[0] for _ in range(10)] == [2] * 10
    assert logged == ["gateways_not_scaled"]
    del broken.target_num_replicas
    assert policy(broken)[0] == 2, "what was wanted last"


def test_a_log_that_fails_is_never_serves_either(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("odd")

    monkeypatch.setattr(controller_log, "controller_log", fail)
    assert GatewayPolicy()(SimpleNamespace()) == (1, {})
