"""Static tenants: a key names its tenant, and a refusal names nothing."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from aloraserve.errors import AuthenticationError, NotPermittedError
from aloraserve.tenants import UNTENANTED, Role, StaticTenants

KEYS = {"acme": SecretStr("acme-key-0123456789"), "other": SecretStr("other-key-0123456789")}


@pytest.mark.parametrize("header", [None, "", "Bearer whatever", "Basic eDp5"])
def test_without_keys_everyone_is_the_untenanted_caller(header: str | None) -> None:
    caller = StaticTenants({}).authenticate(header)
    assert (caller.tenant, caller.cache_salt, caller.may(Role.INVOKE)) == (None, None, True)


@pytest.mark.parametrize("tenant", list(KEYS))
@pytest.mark.parametrize("form", ["Bearer {}", "bearer {}", "BEARER {}", "Bearer  {} "])
def test_a_key_is_its_tenant_s_however_the_scheme_is_written(tenant: str, form: str) -> None:
    caller = StaticTenants(KEYS).authenticate(form.format(KEYS[tenant].get_secret_value()))
    assert (caller.tenant, caller.cache_salt, caller.is_admin) == (tenant, f"tenant:{len(tenant)}:{tenant}", False)


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "acme-key-0123456789", "Basic acme-key-0123456789"])
def test_a_call_without_a_key_learns_how_to_send_one(header: str | None) -> None:
    with pytest.raises(AuthenticationError, match="Authorization: Bearer") as caught:
        StaticTenants(KEYS).authenticate(header)
    assert "acme" not in caught.value.message


@pytest.mark.parametrize(
    "given",
    [
        "acme-key-012345678",
        "acme-key-01234567890",
        "ACME-KEY-0123456789",
        "acme",
        "tenant:acme",
        "acme-key-0123456789 other-key-0123456789",
        "acme-key-0123456789,",
        "\u0430cme-key-0123456789",
        "   ",
    ],
)
def test_a_key_that_nobody_has_is_refused_and_never_repeated(given: str) -> None:
    with pytest.raises(AuthenticationError) as caught:
        StaticTenants(KEYS).authenticate(f"Bearer {given}")
    assert caught.value.message == "the API key is not known"


ADMINS = {"root": SecretStr("root-key-0123456789")}


@pytest.mark.parametrize("header", [None, "", "Bearer whatever"])
def test_without_any_keys_everyone_may_read_receipts(header: str | None) -> None:
    assert StaticTenants({}).authenticate(header, Role.ADMIN).is_admin


@pytest.mark.parametrize("header", [None, "", "Bearer whatever-0123456789"])
@pytest.mark.parametrize("role", [None, *Role])
def test_on_a_public_address_nobody_calls_without_a_key(header: str | None, role: Role | None) -> None:
    with pytest.raises(AuthenticationError):
        StaticTenants({}, is_public=True).authenticate(header, role)


def test_on_a_public_address_an_administrator_s_key_is_sufficient() -> None:
    tenants = StaticTenants({}, ADMINS, is_public=True)
    assert tenants.authenticate("Bearer root-key-0123456789", Role.ADMIN).is_admin


@pytest.mark.parametrize("keys", [{}, KEYS])
def test_an_administrator_s_key_reads_receipts_and_no_other(keys: dict[str, SecretStr]) -> None:
    tenants = StaticTenants(keys, ADMINS)
    assert tenants.authenticate("Bearer root-key-0123456789", Role.ADMIN).is_admin
    for header in (None, "Bearer nobody-s-key-0123456789", "Basic root-key-0123456789"):
        with pytest.raises(AuthenticationError):
            tenants.authenticate(header, Role.ADMIN)


@pytest.mark.parametrize("admins", [{}, ADMINS])
@pytest.mark.parametrize("role", [Role.ADMIN, Role.ADAPTERS])
def test_a_tenant_is_known_but_not_an_administrator(admins: dict[str, SecretStr], role: Role) -> None:
    with pytest.raises(NotPermittedError, match=f"the role {role}; this key's roles: invoke") as caught:
        StaticTenants(KEYS, admins).authenticate("Bearer acme-key-0123456789", role)
    assert "acme" not in caught.value.message


def test_an_administrator_is_known_but_not_a_tenant() -> None:
    tenants = StaticTenants(KEYS, ADMINS)
    with pytest.raises(NotPermittedError, match="the role invoke; this key's roles: admin"):
        tenants.authenticate("Bearer root-key-0123456789")
    assert tenants.authenticate("Bearer root-key-0123456789", None).tenant is None
    assert tenants.authenticate("Bearer root-key-0123456789", Role.ADAPTERS).is_admin


def test_a_tenant_s_key_with_any_role_is_the_tenant_s() -> None:
    assert StaticTenants(KEYS, ADMINS).authenticate("Bearer acme-key-0123456789", None).tenant == "acme"


def test_with_administrators_alone_everyone_on_this_machine_calls_models() -> None:
    tenants = StaticTenants({}, ADMINS)
    assert tenants.authenticate(None) == tenants.authenticate(None, None) == UNTENANTED
