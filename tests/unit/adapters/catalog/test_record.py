"""A name's versions and aliases: what each change does, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.catalog_entries import AT, entry, record, version_of

from aloraserve.adapters.catalog import CURRENT, AdapterRecord, AdapterState, Reference, Share
from aloraserve.adapters.catalog.alias import choose
from aloraserve.adapters.catalog.record import MAX_ALIASES, MAX_DELETED, MAX_VERSIONS, check_record
from aloraserve.errors import (
    AdapterConflictError,
    InvalidRequestError,
    RetiredAdapterError,
    UnknownAdapterError,
)

ONE, TWO = version_of("safety 1"), version_of("safety 2")


def called(known: AdapterRecord, text: str, key: str = "") -> str:
    return known.called(Reference.read(text), key).version


def shares(*pairs: tuple[str, float]) -> list[Share]:
    return [Share(version=version, share=share) for version, share in pairs]


def test_a_name_an_alias_and_digits_mean_versions() -> None:
    known = record("safety", "1", "2").pointed("prod", shares((ONE, 1.0)), AT, "")
    assert called(known, "safety") == called(known, "safety@current") == TWO
    assert called(known, "safety@prod") == ONE
    assert called(known, f"safety@{ONE[:12]}") == called(known, f"safety@{ONE}") == ONE
    for text in ("safety@dev", f"safety@{'0' * 12}"):
        with pytest.raises(UnknownAdapterError):
            called(known, text)


@pytest.mark.parametrize("text", ["", "@prod", "safety@", "safety@PROD", "a/b", "safety@prod@x", "safety\n", "x" * 65])
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="is not a reference; accepted is a name, name@alias"):
        Reference.read(text)


def test_digits_of_a_version_are_no_alias() -> None:
    with pytest.raises(InvalidRequestError, match="not 12 or more digits"):
        record("safety").pointed("a" * 12, shares((ONE, 1.0)), AT, "")


def test_a_version_that_is_not_promoted_waits_for_its_alias() -> None:
    known = record("safety", "1").added(entry("safety", "2"), promote=False)
    assert called(known, "safety") == ONE
    first = AdapterRecord(name="safety").added(entry("safety", "2"), promote=False)
    assert called(first, "safety") == TWO, "a first version is what the name stands for"


def test_a_rollback_goes_back_and_forth() -> None:
    known = record("safety", "1", "2")
    back = known.rolled_back(CURRENT, AT, "worse")
    assert called(back, "safety") == ONE
    assert called(back.rolled_back(CURRENT, AT, ""), "safety") == TWO
    with pytest.raises(AdapterConflictError, match="nothing to roll back to"):
        record("safety").rolled_back(CURRENT, AT, "")


def test_a_retired_version_refuses_calls_and_says_why() -> None:
    known = record("safety").moved([ONE], AdapterState.RETIRED, AT, "it is biased")
    for text in ("safety", f"safety@{ONE[:12]}"):
        with pytest.raises(RetiredAdapterError, match="is retired and takes no calls: it is biased"):
            called(known, text)
    assert known.served == ()


def test_a_retired_canary_leaves_its_conversations_to_the_main_version() -> None:
    known = record("safety", "1", "2").pointed(CURRENT, shares((ONE, 0.5), (TWO, 0.5)), AT, "")
    known = known.moved([TWO], AdapterState.RETIRED, AT, "")
    assert {called(known, "safety", str(key)) for key in range(50)} == {ONE}


def test_an_alias_cannot_point_to_what_takes_no_calls() -> None:
    known = record("safety", "1", "2").moved([ONE], AdapterState.RETIRED, AT, "")
    with pytest.raises(AdapterConflictError, match="which is retired; a version that is available or loaded"):
        known.pointed("prod", shares((ONE, 1.0)), AT, "")
    with pytest.raises(AdapterConflictError, match="which is deleted"):
        known.pointed("prod", shares((version_of("never"), 1.0)), AT, "")
    with pytest.raises(AdapterConflictError, match="which is retired"):
        known.rolled_back(CURRENT, AT, "")


def test_aliases_of_a_deleted_version_go_or_are_left_to_the_others() -> None:
    known = record("safety", "1", "2").pointed("prod", shares((ONE, 1.0)), AT, "")
    known = known.pointed("both", shares((TWO, 0.75), (ONE, 0.25)), AT, "")
    known = known.moved([ONE], AdapterState.DELETED, AT, "")
    assert set(known.aliases) == {CURRENT, "both"}
    assert known.aliases["both"].shares == tuple(shares((TWO, 1.0)))
    assert known.aliases[CURRENT].previous == ()
    check_record(known)


def test_deleted_versions_are_forgotten_in_time_and_may_come_back() -> None:
    known = record("safety", *map(str, range(MAX_DELETED + 3)))
    for number in range(MAX_DELETED + 2):
        known = known.moved([version_of(f"safety {number}")], AdapterState.DELETED, AT + number, "")
    assert len(known.versions) == MAX_DELETED + 1
    assert len(known.live) == 1
    again = known.added(entry("safety", "9"), promote=True)
    assert called(again, "safety") == version_of("safety 9")
    assert len(again.versions) == MAX_DELETED + 1


def test_a_version_is_there_once_and_a_name_has_one_owner() -> None:
    with pytest.raises(AdapterConflictError, match=f"'safety@{ONE[:12]}' is in the catalog already, available"):
        record("safety").added(entry("safety"), promote=True)
    with pytest.raises(AdapterConflictError, match="the name 'safety' is taken") as caught:
        record("safety", owner="acme").added(entry("safety", "2", owner="other"), promote=True)
    assert "acme" not in caught.value.message


def test_versions_and_aliases_are_bounded() -> None:
    known = record("safety", *map(str, range(MAX_VERSIONS)))
    with pytest.raises(AdapterConflictError, match=f"has {MAX_VERSIONS} versions, the most"):
        known.added(entry("safety", "more"), promote=True)
    for number in range(MAX_ALIASES - 1):
        known = known.pointed(f"a{number}", shares((ONE, 1.0)), AT, "")
    with pytest.raises(AdapterConflictError, match=f"has {MAX_ALIASES} aliases, the most"):
        known.pointed("more", shares((ONE, 1.0)), AT, "")


@pytest.mark.parametrize("parts", [(), (0.5,), (0.5, 0.6), (1.5, -0.5), (0.0, 1.0)])
def test_shares_that_are_not_whole_are_refused(parts: tuple[float, ...]) -> None:
    given = shares(*zip([ONE, TWO], parts, strict=False))
    with pytest.raises(InvalidRequestError, match="do not add up to 1"):
        record("safety", "1", "2").pointed("prod", given, AT, "")


@given(st.floats(0.01, 0.5), st.floats(0.0, 0.49), st.lists(st.text(min_size=1), min_size=1, max_size=20))
def test_a_conversation_stays_where_it_is_while_a_canary_grows(share: float, more: float, keys: list[str]) -> None:
    small, large = (shares((ONE, 1 - part), (TWO, part)) for part in (share, share + more))
    for key in keys:
        before, after = choose(small, "safety@current", key), choose(large, "safety@current", key)
        assert before == choose(small, "safety@current", key)
        assert (before, after) in {(ONE, ONE), (TWO, TWO), (ONE, TWO)}


def test_a_canary_gets_its_share_of_conversations() -> None:
    parts = shares((ONE, 0.9), (TWO, 0.1))
    for keys in ([str(number) for number in range(5000)], [""] * 5000):
        canary = sum(choose(parts, "safety@current", key) == TWO for key in keys)
        assert 350 < canary < 650


def test_the_life_of_a_version_is_bounded_and_keeps_its_begin() -> None:
    one = entry("safety")
    for number in range(100):
        one = one.moved(AdapterState.AVAILABLE, AT + number, f"{number} {'x' * 1000}")
    assert len(one.history) == 32
    assert one.registered_at == AT
    assert one.reason.startswith("99 ")
    assert len(one.reason) == 300
    assert one.problem is None
