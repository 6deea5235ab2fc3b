"""A gateway's view joins records, totals and claims; replies may overlap, and what cannot be read harms nobody."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pytest

from aloraserve.blocks import KeySpace
from aloraserve.directory.base import ReplicaState
from aloraserve.directory.claimed_blocks import marks_of
from aloraserve.directory.directory_view import DirectoryView
from aloraserve.directory.redis_encoding import claim_blob, claim_name, holder_of, withdrawal_blob

PROMPT = KeySpace("m", "t", 1).keys(range(100))
NOW_MS = 1_800_000_000_000
PAGE = 128


class Gateway:
    """A view, a clock that the test moves, and what a server would reply."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.unreadable = 0
        self.version = 1
        self.view = DirectoryView(holder_of, on_unreadable=self._count, clock=lambda: self.now_s)

    def _count(self) -> None:
        self.unreadable += 1

    def publish(self, *replicas: str) -> None:
        self.version += 1
        head = f"{NOW_MS + 60_000:013d}{60_000:09d}{self.version:016d}001"
        records = [f"{head}1{json.dumps(asdict(ReplicaState(replica, '1')))}".encode() for replica in replicas]
        self.take(records=[self.version, [replica.encode() for replica in replicas], records])

    def take(
        self,
        *,
        records: list[Any] | None = None,
        totals: list[Any] | None = None,
        entries: list[Any] | None = None,
        leaving: Sequence[bytes] = (),
    ) -> bool:
        nothing = [self.version, [], []]
        return self.view.take(
            [NOW_MS, self.version, records or nothing, totals or nothing, entries or [], leaving], PAGE
        )

    def seen(self) -> list[tuple[int, int, int]]:
        return [(one.claimed_blocks, one.claimed_tokens, one.claims) for one in self.view.candidates(PROMPT, {})]


@pytest.fixture
def gateway() -> Gateway:
    opened = Gateway()
    opened.publish("a", "b")
    opened.version = 10
    return opened


def entry(claim_id: str, replica: str, totals: str, *, at: int = 1, blob: bytes | None = None) -> list[Any]:
    name = claim_name(claim_id, holder_of(replica, "1"))
    content = claim_blob(name, marks_of(PROMPT)) if blob is None else blob
    fields = [b"replica", replica.encode(), b"ends", str(NOW_MS + 10_000).encode(), b"totals", totals.encode()]
    return [f"{NOW_MS}-{at}".encode(), [*fields, b"claim", content]]


def test_a_claim_counts_from_its_entry_on_and_once_in_any_number_of_replies(gateway: Gateway) -> None:
    for _ in range(3):
        gateway.take(entries=[entry("c", "a", "5 64 1 9")], totals=[5, [b"a"], [b"5 64 1 9"]])
        assert gateway.seen() == [(100, 64, 1), (0, 0, 0)]
    assert gateway.view.cursors.claims == f"{NOW_MS}-1"


def test_older_totals_change_nothing(gateway: Gateway) -> None:
    gateway.take(totals=[7, [b"a"], [b"7 10 1 9"]])
    gateway.take(entries=[entry("c", "a", "6 64 2 9")])
    assert gateway.seen()[0] == (100, 10, 1)


def test_an_own_claim_that_a_refresh_shows_first_is_its_callers_to_count_until_its_reply(gateway: Gateway) -> None:
    name = claim_name("c", holder_of("a", "1"))
    gateway.view.begin(name, "a", 64)
    shown = entry("c", "a", "5 69 2 9")
    gateway.take(entries=[shown], totals=[5, [b"a"], [b"5 69 2 9"]])
    assert gateway.seen()[0][1:] == (5, 1)
    assert gateway.view.end(name, [1, NOW_MS, [shown], []])
    assert gateway.seen()[0][1:] == (69, 2)


def test_a_refused_claim_learns_of_the_one_that_came_first_whatever_lies_between(gateway: Gateway) -> None:
    name = claim_name("mine", holder_of("a", "1"))
    gateway.view.begin(name, "a", 64)
    first = entry("theirs", "b", "5 40 1 9", at=900)
    assert not gateway.view.end(name, [0, NOW_MS, [entry("old", "a", "4 1 1 9", at=1)], [first]])
    assert gateway.seen() == [(100, 1, 1), (100, 40, 1)]
    assert gateway.view.cursors.claims == f"{NOW_MS}-1", "what lies between is still to come"


def test_a_claim_without_a_reply_is_not_recorded_until_its_entry_comes(gateway: Gateway) -> None:
    name = claim_name("c", holder_of("a", "1"))
    gateway.view.begin(name, "a", 64)
    assert not gateway.view.end(name, None)
    assert gateway.seen()[0] == (0, 0, 0)
    gateway.take(entries=[entry("c", "a", "5 64 1 9")])
    assert gateway.seen()[0] == (100, 64, 1)


def test_a_withdrawal_and_the_end_of_a_claim_take_its_blocks_away(gateway: Gateway) -> None:
    name = claim_name("c", holder_of("a", "1"))
    gateway.take(entries=[entry("c", "a", "5 64 1 9"), entry("d", "b", "6 2 1 9", at=2)])
    gateway.take(entries=[entry("c", "a", "7 0 0 0", at=3, blob=withdrawal_blob(name))])
    assert gateway.seen() == [(0, 0, 0), (100, 2, 1)]
    gateway.now_s += 10
    assert gateway.seen()[1][0] == 0


def test_what_cannot_be_read_is_counted_and_the_rest_taken_in(gateway: Gateway) -> None:
    wrong = [f"{NOW_MS}-2".encode(), [b"replica", b"\xff", b"ends", b"x"]]
    names, contents = [b"\xff", b"a", b"b"], [b"5 1 1 9", b"5 64 1 9", b"nonsense"]
    gateway.take(entries=[wrong, entry("d", "b", "6 2 1 9", at=3)], totals=[6, names, contents])
    assert gateway.seen() == [(0, 64, 1), (100, 2, 1)]
    assert gateway.unreadable == 3


def test_a_server_that_lost_its_latest_versions_is_believed(gateway: Gateway) -> None:
    gateway.version = 90
    gateway.take(totals=[90, [b"a"], [b"90 64 1 9"]], entries=[entry("c", "a", "90 64 1 9")])
    gateway.version = 50
    gateway.take(totals=[50, [b"a"], [b"50 7 1 9"]])
    assert gateway.seen()[0] == (100, 7, 1)
    assert gateway.view.cursors == (50, 50, "")


def test_a_page_that_is_full_has_more_behind_it(gateway: Gateway) -> None:
    assert not gateway.take()
    assert gateway.take(entries=[entry(f"c{number}", "a", "5 1 1 9", at=number) for number in range(PAGE)])


def test_totals_of_replicas_that_are_gone_are_bounded(gateway: Gateway) -> None:
    for start in range(0, 4000, 100):
        names = [f"gone-{number}".encode() for number in range(start, start + 100)]
        gateway.take(totals=[5, names, [b"5 1 1 9"] * 100])
        gateway.publish("a", f"new-{start}")
        gateway.view.live()
    assert len(gateway.view._totals) < 1300


def test_a_mark_counts_until_a_reply_has_it_no_more(gateway: Gateway) -> None:
    def leaving() -> list[bool]:
        return [candidate.state.is_leaving for candidate in gateway.view.live()]

    gateway.take(leaving=[b"b", b"unknown"])
    assert leaving() == [False, True]
    gateway.publish("a")
    gateway.take(leaving=[b"b"])
    assert leaving() == [False, True], "news of others change nothing"
    gateway.take()
    assert leaving() == [False, False]
