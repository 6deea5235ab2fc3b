from __future__ import annotations

import pytest

from aloraserve.errors import InvalidRequestError
from aloraserve_services.gateway.session import MAX_SESSION_CHARACTERS, session_of


@pytest.mark.parametrize("header", [None, ""])
def test_without_the_header_there_is_no_session(header: str | None) -> None:
    assert session_of(header, "tenant:x") is None


def test_one_session_is_one_and_two_tenants_sessions_are_two() -> None:
    assert session_of("chat 7", "tenant:x") == session_of("chat 7", "tenant:x")
    salts = (None, "tenant:x", "tenant:y")
    assert len({session_of("chat 7", salt) for salt in salts}) == 3


def test_the_longest_is_taken_and_a_longer_one_is_named_and_refused() -> None:
    assert session_of("x" * MAX_SESSION_CHARACTERS, None)
    with pytest.raises(InvalidRequestError, match="up to 128 printable ASCII characters") as caught:
        session_of("x" * (MAX_SESSION_CHARACTERS + 1), None)
    assert caught.value.param == "x-session-id"
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("header", ["a\tb", "a\x7f", "caf\xe9", "\x00"])
def test_what_is_not_printable_ascii_is_refused(header: str) -> None:
    with pytest.raises(InvalidRequestError, match="x-session-id"):
        session_of(header, None)
