"""Variables that only look like settings: those that Kubernetes sets for services called after the platform."""

from __future__ import annotations

import os

import pytest

from aloraserve.errors import SettingsError
from aloraserve.settings import SECRETS, load_settings
from aloraserve.settings.variables import hidden_variables


def service_links(service: str, address: str = "10.96.0.17", port: int = 8000) -> dict[str, str]:
    """Return what Kubernetes tells each pod of a service (``pkg/kubelet/envvars/envvars.go``)."""
    name = service.upper().replace("-", "_")
    return {
        f"{name}_SERVICE_HOST": address,
        f"{name}_SERVICE_PORT": str(port),
        f"{name}_SERVICE_PORT_HTTP": str(port),
        f"{name}_PORT": f"tcp://{address}:{port}",
        f"{name}_PORT_{port}_TCP": f"tcp://{address}:{port}",
        f"{name}_PORT_{port}_TCP_PROTO": "tcp",
        f"{name}_PORT_{port}_TCP_PORT": str(port),
        f"{name}_PORT_{port}_TCP_ADDR": address,
    }


@pytest.mark.parametrize("service", ["aloraserve", "aloraserve-gateway", "aloraserve-metrics", "aloraserve-channel-2"])
@pytest.mark.parametrize("address", ["10.96.0.17", "fd00::17"])
def test_service_links_are_no_settings(monkeypatch: pytest.MonkeyPatch, service: str, address: str) -> None:
    for name, value in service_links(service, address).items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert (settings.port, settings.metrics_port, settings.channel_port) == (8000, 0, 0)


def test_a_setting_beside_service_links_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in service_links("aloraserve-metrics").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ALORASERVE_PORT", "8001")
    assert load_settings().port == 8001


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALORASERVE_SERVICE_HOST", "hunter2"),
        ("ALORASERVE_SERVICE_PORT", "http"),
        ("ALORASERVE_PORT_8000_TCP", "8000"),
        ("ALORASERVE_PORTS", "tcp://10.96.0.17:8000"),
        ("ALORASERVE_GATEWAY_PORT", "8000"),
        ("ALORASERVE_SERVICE", "10.96.0.17"),
    ],
)
def test_a_mistyped_variable_is_still_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"unknown variable {name};"):
        load_settings()


@pytest.mark.parametrize("value", ["tcp://", "http://10.96.0.17:8000", "8000/tcp"])
def test_a_port_that_is_neither_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("ALORASERVE_PORT", value)
    with pytest.raises(SettingsError, match="environment: port is"):
        load_settings()


def test_of_two_equal_tenants_of_a_variable_neither_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALORASERVE_API_KEYS", '{"acme": "hunter2-hunter2-1", "acme": "hunter2-hunter2-2"}')
    with pytest.raises(SettingsError, match="api_keys") as refused:
        load_settings()
    assert "hunter2" not in refused.value.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALORASERVE_REDIS_URL", "redis://:hunter2@10.0.0.1/0"),
        ("aloraserve_redis_url", "redis://:hunter2@10.0.0.1/0"),
        ("ALORASERVE_CELL_REDIS_URLS", '["redis://:hunter2@10.0.0.1/0"]'),
        ("ALORASERVE_API_KEYS", '{"acme": "hunter2hunter2hunter2"}'),
        ("ALORASERVE_KEY", "hunter2hunter2hunter2"),
    ],
)
def test_no_process_that_is_started_has_a_secret_of_the_settings(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with hidden_variables(SECRETS):
        assert name not in os.environ
    assert os.environ[name] == value
