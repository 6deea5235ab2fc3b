"""The compose file: valid, confined, with secrets that its parts accept, and ports that the documents name."""

from __future__ import annotations

import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from redis import Redis
from support.own_valkey import socket_url, valkey_server
from support.prometheus_server import OBSERVABILITY, tool

from aloraserve.settings import load_settings
from aloraserve.tenants import Role
from aloraserve_services.cli.tenant_access import with_manager
from aloraserve_services.doctor.base import Level
from aloraserve_services.doctor.redis_server import look_at_redis
from aloraserve_services.local.redis_server import given_redis

ROOT = Path(__file__).parents[3]
COMPOSE = ROOT / "deploy" / "compose"
CONTENT: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = CONTENT["services"]


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of new secrets."""
    folder = tmp_path_factory.mktemp("compose") / "secrets"
    done = subprocess.run(
        ["sh", str(COMPOSE / "make-secrets.sh"), str(folder)], text=True, capture_output=True, check=True
    )
    assert not any(path.read_text().strip()[-40:] in done.stdout for path in folder.iterdir())
    return folder


def test_the_file_is_what_the_compose_specification_says() -> None:
    compose_spec = pytest.importorskip("compose_spec")
    read = compose_spec.PyCompose.from_yaml
    assert set(read(yaml.safe_dump(CONTENT)).service_names()) == SERVICES.keys()
    for wrong in ({"healthchek": {}}, {"ports": ["80:x"]}, {"restart": "sometimes"}):
        faulty = CONTENT | {"services": SERVICES | {"redis": SERVICES["redis"] | wrong}}
        with pytest.raises(ValueError, match="services"):
            read(yaml.safe_dump(faulty))


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_confined_pinned_and_says_whether_it_is_well(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert re.search(r":v?\d[\w.-]*$", service["image"]), "an image has a version"
    assert name == "platform" or "healthcheck" in service, "the platform's is its image's"
    assert set(service["networks"]) <= CONTENT["networks"].keys()


def test_only_what_is_published_on_loopback_is_reached_and_the_documents_name_it() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert "ports" not in SERVICES["redis"]
    assert SERVICES["redis"]["networks"] == ["inside"]
    section = (ROOT / "docs/reference/ports.md").read_text().split("## In containers", 1)[1].split("\n## ", 1)[0]
    documented = set(re.findall(r"^\| `(\w+)` \| (\d+) \|", section, re.MULTILINE))
    found = {(name, port.split(":")[2]) for name in SERVICES for port in SERVICES[name].get("ports", ())}
    inner = {("redis", "6379"), ("platform", SERVICES["platform"]["environment"]["ALORASERVE_METRICS_PORT"])}
    assert documented == found | inner


def test_every_file_that_is_mounted_exists_and_every_secret_is_made(secrets: Path) -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source in CONTENT["volumes"] if source[0] != "." else (COMPOSE / source).resolve().exists(), source
        assert set(service.get("secrets", ())) <= CONTENT["secrets"].keys()
    assert {Path(secret["file"]).name for secret in CONTENT["secrets"].values()} == {p.name for p in secrets.iterdir()}


def test_secrets_are_random_kept_from_others_and_never_made_twice(secrets: Path, tmp_path: Path) -> None:
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    before = {path.name: path.read_bytes() for path in secrets.iterdir()}
    again = ["sh", str(COMPOSE / "make-secrets.sh")]
    subprocess.run([*again, str(secrets)], capture_output=True, check=True)
    assert {path.name: path.read_bytes() for path in secrets.iterdir()} == before
    subprocess.run([*again, str(tmp_path / "others")], capture_output=True, check=True)
    assert all((tmp_path / "others" / name).read_bytes() != content for name, content in before.items())


def test_the_platform_s_variables_and_secrets_are_settings_that_it_accepts(
    secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SERVICES["platform"]["environment"].items():
        if name != "ALORASERVE_CONFIG":
            monkeypatch.setenv(name, value)
    settings = load_settings(secrets / "platform.yaml", host="0.0.0.0")
    assert (settings.grpc_port, settings.metrics_port) == (8001, 9100)
    assert settings.admin_keys["prometheus"].get_secret_value() == (secrets / "prometheus-key").read_text()
    assert settings.drain_s < float(SERVICES["platform"]["stop_grace_period"].removesuffix("s"))


def test_its_redis_lets_the_platform_in_alone_and_is_set_up_well(secrets: Path, tmp_path: Path) -> None:
    """With the users and the options of the compose file, on a real server."""
    command = SERVICES["redis"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    config = {name.removeprefix("--").replace("-", "_"): value for name, value in options.items()}
    assert config.pop("aclfile") == "/run/secrets/redis-users"
    with valkey_server(**config) as server:
        default, ours = (line.split()[1:] for line in (secrets / "redis-users.acl").read_text().splitlines())
        with Redis(unix_socket_path=str(server.unix_socket_path)) as client:
            client.execute_command("ACL", "SETUSER", *ours)
            client.execute_command("ACL", "SETUSER", *default)
        url = f"{socket_url(server)}?credentials_file={secrets / 'redis-login'}"
        settings = load_settings(redis_url=url, namespace="compose", state_dir=tmp_path)
        with given_redis(url, "compose"):
            made = with_manager(settings, lambda manager: manager.create_key("acme", [Role.INVOKE]))
        findings = list(look_at_redis(settings))
        [refused] = look_at_redis(load_settings(redis_url=socket_url(server)))
    assert made is not None
    assert {finding.level for finding in findings} == {Level.OK}, findings
    assert refused.level is Level.FAILED


def test_prometheus_reads_the_same_rules_and_asks_with_the_administrator_s_key() -> None:
    here, ours = (
        yaml.safe_load(path.read_text()) for path in (COMPOSE / "prometheus.yml", OBSERVABILITY / "prometheus.yml")
    )
    [found] = here["scrape_configs"][0].pop("http_sd_configs")
    ours["scrape_configs"][0].pop("http_sd_configs")
    assert here == ours
    assert found["url"] == "http://platform:8000/v1/metrics/targets"
    assert found["authorization"] == {"credentials_file": "/run/secrets/prometheus-key"}
    done = subprocess.run(
        [tool("promtool"), "check", "config", "--syntax-only", str(COMPOSE / "prometheus.yml")],
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_grafana_finds_prometheus_and_every_dashboard() -> None:
    [source] = yaml.safe_load((COMPOSE / "grafana/datasources.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    [provider] = yaml.safe_load((COMPOSE / "grafana/dashboards.yml").read_text())["providers"]
    mounts = dict(volume.split(":")[:2] for volume in SERVICES["grafana"]["volumes"])
    [folder] = [source for source, target in mounts.items() if target == provider["options"]["path"]]
    assert (COMPOSE / folder).resolve() == OBSERVABILITY / "dashboards"
