"""``aloraserve keys`` and ``aloraserve tenants`` against a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from aloraserve.errors import AuthenticationError
from aloraserve.settings import Settings
from aloraserve.tenants import Caller, Role
from aloraserve_services.cli.main import app
from aloraserve_services.tenant_store import FleetTenants

Run = Callable[..., Result]


@pytest.fixture
def settings(redis_server: Any, request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    namespace = request.node.originalname.replace("_", "-")[:40]
    return Settings(redis_url=redis_server.url, namespace=namespace, state_dir=tmp_path)


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("ALORASERVE_REDIS_URL", settings.redis_address)
    monkeypatch.setenv("ALORASERVE_NAMESPACE", settings.namespace)
    monkeypatch.setenv("ALORASERVE_STATE_DIR", str(settings.state_dir))
    return lambda *arguments: CliRunner().invoke(app, arguments)


def caller_of(settings: Settings, key: str, role: Role | None = None) -> Caller:
    """Return whom a gateway takes the owner of a key for."""

    async def asked() -> Caller:
        live = FleetTenants(settings).live
        try:
            await live.begin()
            return live.authenticate(f"Bearer {key}", role)
        finally:
            await live.close()

    return asyncio.run(asked())


def test_the_first_administrator_is_made_on_the_machine_itself(run: Run, settings: Settings) -> None:
    made = run("keys", "create", "--label", "operator")
    assert made.exit_code == 0
    key = made.stdout.strip()
    assert key.startswith("ak-")
    assert "no tenant, roles admin; it is not shown again" in made.stderr
    assert caller_of(settings, key, Role.ADMIN).tenant is None


def test_a_key_is_listed_rotated_and_revoked(run: Run, settings: Settings) -> None:
    old = json.loads(run("keys", "create", "acme", "--role", "invoke", "--role", "adapters", "--json").stdout)
    new = run("keys", "rotate", old["id"], "--grace", "1h").stdout.strip()
    assert [caller_of(settings, key).tenant for key in (old["key"], new)] == ["acme", "acme"]
    assert run("keys", "revoke", old["id"]).stdout.strip() == f"revoked {old['id']}"
    with pytest.raises(AuthenticationError):
        caller_of(settings, old["key"])
    listed = json.loads(run("keys", "list", "acme", "--json").stdout)
    assert [(key["state"], key["roles"]) for key in listed] == [
        ("revoked", ["adapters", "invoke"]),
        ("active", ["adapters", "invoke"]),
    ]
    shown = run("keys", "list").stdout
    assert old["id"] in shown
    assert new[-43:] not in shown


def test_limits_of_a_tenant_are_set_and_taken_away(run: Run, settings: Settings) -> None:
    key = run("keys", "create", "acme").stdout.strip()
    run("tenants", "set", "acme", "--requests-per-minute", "60", "--weight", "4")
    run("tenants", "set", "acme", "--requests-per-minute", "0", "--concurrency", "2")
    limits = caller_of(settings, key).limits
    assert (limits.requests_per_minute, limits.concurrency, limits.weight) == (None, 2, 4.0)
    assert "acme" in run("tenants", "list").stdout
    assert run("tenants", "rm", "acme").exit_code == 0
    with pytest.raises(AuthenticationError):
        caller_of(settings, key)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["keys", "create", "A/b"], "tenant is 'A/b'; 1 to 64 of a-z"),
        (["keys", "create", "acme", "--expires", "soon"], "--expires is 'soon'; a number with s, m, h or d"),
        (["keys", "create", "--role", "invoke"], "roles is invoke without a tenant"),
        (["keys", "revoke", "nobody"], "there is no key with the id 'nobody'"),
        (["tenants", "set", "acme", "--weight", "0"], "the limits are not accepted"),
        (["tenants", "rm", "acme"], "there is no tenant 'acme'"),
    ],
)
def test_what_is_not_accepted_is_named(run: Run, arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code in (1, 2)
    assert message in " ".join(result.stderr.split())


def test_without_a_redis_it_says_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALORASERVE_REDIS_URL")
    result = run("keys", "list")
    assert "redis_url is not set and no platform with an embedded Redis runs" in " ".join(result.stderr.split())
