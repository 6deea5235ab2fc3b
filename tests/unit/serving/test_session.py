from __future__ import annotations

import pytest

from aloraserve.serving.session import MAX_SESSION_CHARACTERS, session_of
from aloraserve.tenants import UNTENANTED, Caller

X, Y = Caller("x", cache_salt="tenant:1:x"), Caller("y", cache_salt="tenant:1:y")


@pytest.mark.parametrize("header", [None, ""])
def test_without_the_header_there_is_no_session(header: str | None) -> None:
    assert session_of(header, X) is None


def test_one_session_is_one_and_two_tenants_sessions_are_two() -> None:
    assert session_of("chat 7", X) == session_of("chat 7", X)
    callers = (UNTENANTED, X, Y)
    assert len({session_of("chat 7", caller) for caller in callers}) == 3


@pytest.mark.parametrize("header", ["x" * (MAX_SESSION_CHARACTERS + 1), "a\tb", "a\x7f", "caf\xe9", "\x00", "y" * 9000])
def test_an_id_that_is_long_or_odd_is_one_session_too_and_bounded(header: str) -> None:
    found = session_of(header, X)
    assert found == session_of(header, X) != session_of(header + "z", X)
    assert found is not None
    assert len(found) <= len("tenant:1:x/") + MAX_SESSION_CHARACTERS
