"""Access: a key names its tenant, and a refusal names nothing."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from aloraserve.errors import AuthenticationError, NotPermittedError
from aloraserve_services.gateway.access import Access

KEYS = {"acme": SecretStr("acme-key-0123456789"), "other": SecretStr("other-key-0123456789")}


@pytest.mark.parametrize("header", [None, "", "Bearer whatever", "Basic eDp5"])
def test_without_keys_everyone_is_the_untenanted_caller(header: str | None) -> None:
    assert Access({}).cache_salt(header) is None


@pytest.mark.parametrize("tenant", list(KEYS))
@pytest.mark.parametrize("form", ["Bearer {}", "bearer {}", "BEARER {}", "Bearer  {} "])
def test_a_key_is_its_tenant_s_salt_however_the_scheme_is_written(tenant: str, form: str) -> None:
    salt = Access(KEYS).cache_salt(form.format(KEYS[tenant].get_secret_value()))
    assert salt == f"tenant:{tenant}"


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "acme-key-0123456789", "Basic acme-key-0123456789"])
def test_a_call_without_a_key_is_told_how_to_send_one(header: str | None) -> None:
    with pytest.raises(AuthenticationError, match="Authorization: Bearer") as caught:
        Access(KEYS).cache_salt(header)
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
        Access(KEYS).cache_salt(f"Bearer {given}")
    assert caught.value.message == "the API key is not known"


ADMINS = {"root": SecretStr("root-key-0123456789")}


@pytest.mark.parametrize("header", [None, "", "Bearer whatever"])
def test_without_any_keys_everyone_may_read_receipts(header: str | None) -> None:
    Access({}).check_admin(header)


@pytest.mark.parametrize("header", [None, "", "Bearer whatever"])
def test_on_a_public_address_nobody_reads_receipts_without_a_key(header: str | None) -> None:
    with pytest.raises(NotPermittedError, match="admin_keys; none is set"):
        Access({}, is_public=True).check_admin(header)
    Access({}, ADMINS, is_public=True).check_admin("Bearer root-key-0123456789")


@pytest.mark.parametrize("keys", [{}, KEYS])
def test_an_administrator_s_key_reads_receipts_and_no_other(keys: dict[str, SecretStr]) -> None:
    access = Access(keys, ADMINS)
    access.check_admin("Bearer root-key-0123456789")
    for header in (None, "Bearer nobody-s-key-0123456789", "Basic root-key-0123456789"):
        with pytest.raises(AuthenticationError):
            access.check_admin(header)


@pytest.mark.parametrize("admins", [{}, ADMINS])
def test_a_tenant_is_known_but_no_administrator(admins: dict[str, SecretStr]) -> None:
    with pytest.raises(NotPermittedError, match="admin_keys") as caught:
        Access(KEYS, admins).check_admin("Bearer acme-key-0123456789")
    assert "acme" not in caught.value.message


def test_an_administrator_is_no_tenant() -> None:
    with pytest.raises(AuthenticationError):
        Access(KEYS, ADMINS).cache_salt("Bearer root-key-0123456789")
