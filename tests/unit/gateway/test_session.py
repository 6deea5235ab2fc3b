from __future__ import annotations

import pytest

from aloraserve_services.gateway.session import MAX_SESSION_CHARACTERS, session_of


@pytest.mark.parametrize("header", [None, ""])
def test_without_the_header_there_is_no_session(header: str | None) -> None:
    assert session_of(header, "tenant:x") is None


def test_one_session_is_one_and_two_tenants_sessions_are_two() -> None:
    assert session_of("chat 7", "tenant:x") == session_of("chat 7", "tenant:x")
    salts = (None, "tenant:x", "tenant:y")
    assert len({session_of("chat 7", salt) for salt in salts}) == 3


@pytest.mark.parametrize("header", ["x" * (MAX_SESSION_CHARACTERS + 1), "a\tb", "a\x7f", "caf\xe9", "\x00", "y" * 9000])
def test_an_id_that_is_long_or_odd_is_one_session_too_and_bounded(header: str) -> None:
    found = session_of(header, "tenant:x")
    assert found == session_of(header, "tenant:x") != session_of(header + "z", "tenant:x")
    assert found is not None
    assert len(found) <= len("tenant:x/") + MAX_SESSION_CHARACTERS
