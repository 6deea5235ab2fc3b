"""The application from plain arguments: what is wrong is named, and what processes must agree on is decided."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.serve_schema import ignored_keys

from aloraserve.errors import SettingsError
from aloraserve.settings import load_settings, settings_from_arguments
from aloraserve.tenants import Role, StaticTenants
from aloraserve_services.app import application_settings, build, engine_resources
from aloraserve_services.plan import require_engine

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "deploy/serve/aloraserve.yaml"
CONFIGS = sorted((ROOT / "deploy" / "serve").glob("*.yaml"))
REDIS = "redis://127.0.0.1:1"
SECRET_REDIS = "redis://:very-secret@127.0.0.1:1"
SIMULATED: dict[str, Any] = {"engine": "simulated", "redis_url": REDIS, "host": "127.0.0.1"}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("ALORASERVE_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("args", "fault"),
    [
        ({"replicas": 0}, "args: replicas is '0': Input should be greater than or equal to 1"),
        ({"gateways": 33}, "args: gateways is '33': Input should be less than or equal to 32"),
        ({"replicsa": 2}, "args: unknown key 'replicsa'; known are "),
        ({"redis_url": None}, "redis_url is not set"),
        ({"calibration": "nowhere"}, "calibration is 'nowhere'"),
        ({"config": "/nowhere.yaml"}, "/nowhere.yaml: cannot be read"),
        ({"engine": "vllm", "block_tokens": 16}, "block_tokens is 16; on a CPU"),
    ],
)
def test_a_wrong_argument_is_named(args: dict[str, Any], fault: str) -> None:
    with pytest.raises(SettingsError) as caught:
        build(SIMULATED | args)
    assert fault in caught.value.message


def test_a_secret_in_a_wrong_argument_is_not_shown() -> None:
    with pytest.raises(SettingsError) as caught:
        build(SIMULATED | {"api_keys": {"tenant": "hunter2"}})
    assert "hunter2" not in caught.value.message


def test_arguments_win_over_the_environment_over_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("replicas: 3\nmax_loras: 4\nhost: 127.0.0.1\n")
    monkeypatch.setenv("ALORASERVE_REPLICAS", "5")
    monkeypatch.setenv("ALORASERVE_NAMESPACE", "ours")
    args = {"engine": "simulated", "redis_url": REDIS, "namespace": "mine", "config": str(file)}
    settings = application_settings(args)
    assert (settings.namespace, settings.replicas, settings.max_loras) == ("mine", 5, 4)
    assert settings.host == "127.0.0.1"
    monkeypatch.setenv("ALORASERVE_CONFIG", str(file))
    del args["config"]
    assert application_settings(args) == settings


def test_the_number_type_is_decided_once_for_all_processes() -> None:
    assert application_settings(SIMULATED).dtype in ("bfloat16", "float32")
    assert application_settings(SIMULATED | {"dtype": "float32"}).dtype == "float32"


def test_there_are_as_many_gateways_and_replicas_as_asked_for() -> None:
    gateway = build(SIMULATED | {"gateways": 3, "replicas": 4})._bound_deployment
    _, engines = gateway.init_args
    assert (gateway.num_replicas, engines._bound_deployment.num_replicas) == (3, 4)


def test_gateways_scale_between_their_bounds_and_settings_that_change_reset_nothing() -> None:
    scaled = SIMULATED | {"autoscaling": True, "min_gateways": 2, "max_gateways": 5, "calls_per_gateway": 40}
    config = build(scaled)._bound_deployment._deployment_config.autoscaling_config
    assert (config.min_replicas, config.max_replicas, config.initial_replicas) == (2, 5, None)
    assert config.target_ongoing_requests == 40
    assert config.policy.get_policy().__name__ == "GatewayPolicy"


def test_engines_scale_by_the_policy_s_delays_alone_and_no_secret_is_in_its_arguments() -> None:
    scaled = SIMULATED | {"autoscaling": True, "min_replicas": 0, "max_replicas": 7, "redis_url": SECRET_REDIS}
    _, engines = build(scaled)._bound_deployment.init_args
    config = engines._bound_deployment._deployment_config.autoscaling_config
    assert (config.min_replicas, config.max_replicas, config.initial_replicas) == (0, 7, None)
    assert config.upscale_delay_s == config.downscale_delay_s == config.downscale_to_zero_delay_s == 0
    # As Serve makes it again for a config that names the deployment: of what is in it only this is left.
    again = type(config)(**config.model_dump())
    policy = again.policy.get_policy()(**again.policy.policy_kwargs)
    assert type(policy).__name__ == "EnginePolicy"
    assert policy._rules["max_replicas"] == 7
    assert "very-secret" not in repr(config.model_dump())


def test_updates_start_gateways_before_old_ones_stop_and_engines_as_asked_for() -> None:
    gateway = build(SIMULATED | {"max_surge_percent": 30})._bound_deployment
    _, engines = gateway.init_args
    surges = [deployment._deployment_config.max_surge_percent for deployment in (gateway, engines._bound_deployment)]
    assert surges == [100, 30]


@pytest.mark.parametrize(("device", "gpus"), [("cpu", None), ("gpu", 1)])
def test_engines_ask_for_a_gpu_by_their_device_whatever_is_installed_where_it_is_built(
    device: str, gpus: int | None
) -> None:
    _, engines = build({"redis_url": REDIS, "device": device})._bound_deployment.init_args
    assert engines._bound_deployment.ray_actor_options.get("num_gpus") == gpus


def test_an_engine_of_another_device_than_its_vllm_is_built_for_is_refused() -> None:
    with pytest.raises(SettingsError, match="device is 'gpu'; the vLLM that is installed here is the build for CPUs"):
        require_engine(application_settings({"redis_url": REDIS, "device": "gpu"}))


def test_a_replica_asks_for_as_many_gpus_as_its_engine_is_spread_over() -> None:
    args = {"redis_url": REDIS, "device": "gpu"}
    assert engine_resources(application_settings(args)) == {"num_cpus": 1, "num_gpus": 1}
    spread = args | {"engine_args": {"tensor_parallel_size": 4}}
    assert engine_resources(application_settings(spread)) == {"num_cpus": 1, "num_gpus": 4}


def test_callers_keys_travel_to_gateways_as_digests_and_to_engines_not_at_all() -> None:
    tenant, admin = "tenant-key-0123456789", "admin-key-0123456789"
    keys = {"api_keys": {"acme": tenant}, "admin_keys": {"root": admin}, "key_pepper_file": "/pepper"}
    gateway = build(SIMULATED | keys)._bound_deployment
    settings, engines = gateway.init_args
    [of_engines] = engines._bound_deployment.init_args
    travels = pickle.dumps(settings) + repr(settings.to_arguments()).encode()
    assert tenant.encode() not in travels
    assert admin.encode() not in travels
    tenants = StaticTenants(settings.api_keys, settings.admin_keys)
    assert tenants.authenticate(f"Bearer {tenant}").tenant == "acme"
    assert tenants.authenticate(f"Bearer {admin}", Role.ADMIN).is_admin
    assert (of_engines.api_keys, of_engines.admin_keys, of_engines.key_pepper_file) == ({}, {}, None)
    assert REDIS not in f"{settings!r} {settings} {settings.model_dump_json()}"
    assert of_engines.redis_address == REDIS


def test_settings_survive_as_plain_arguments(tmp_path: Path) -> None:
    settings = load_settings(
        api_keys={"tenant": "key-0123456789abcdef"},
        admin_keys={"admin": "admin-0123456789abcdef"},
        adapters_dir=tmp_path,
        priority_ageing=0.1,
        redis_url=REDIS,
        reserve_modules=("q_proj",),
    )
    plain = json.loads(json.dumps(settings.to_arguments()))
    assert settings_from_arguments(plain) == settings


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_a_config_has_no_key_that_serve_would_ignore(file: Path) -> None:
    """Serve drops unknown keys without a word."""
    assert ignored_keys(yaml.safe_load(file.read_text())) == []


@pytest.mark.parametrize(
    ("fault", "path"),
    [
        ({"proxy_loction": "Disabled"}, "proxy_loction"),
        ({"http_options": {"hots": "127.0.0.1"}}, "http_options.hots"),
        ({"applications": [{"import_path": "a:b", "arguments": {}}]}, "applications[0].arguments"),
    ],
)
def test_a_mistyped_key_of_a_config_is_found_with_its_place(fault: dict[str, Any], path: str) -> None:
    content = yaml.safe_load(EXAMPLE.read_text())
    assert ignored_keys(content | fault) == [path]


# Serve's own, of a field that has no other place yet.
@pytest.mark.filterwarnings("ignore:The `metrics_interval_s` field:DeprecationWarning")
@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_a_config_is_built_as_it_is_and_its_gateways_have_the_port_to_themselves(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = yaml.safe_load(file.read_text())
    [application] = content["applications"]
    # A URL may hold a password: it comes from the cluster's environment, unless it is this machine's own server.
    monkeypatch.setenv("ALORASERVE_REDIS_URL", REDIS)
    gateway = build(dict(application["args"]))._bound_deployment
    assert gateway.name == "gateway"
    assert gateway.init_args[1]._bound_deployment.name == "engine"
    assert content["proxy_location"] == "Disabled"
    assert application["route_prefix"] is None
