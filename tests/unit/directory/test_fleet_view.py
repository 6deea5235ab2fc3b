"""A fleet as one client sees it, whatever the server's clock and memory do."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from aloraserve.directory import fleet_view
from aloraserve.directory.base import ReplicaState
from aloraserve.directory.fleet_view import FleetView
from aloraserve.directory.redis import holder_of

TTL_MS = 2000


class Server:
    """What the script keeps, as plainly as can be, with a clock of its own."""

    def __init__(self, now_ms: int = 1_800_000_000_000) -> None:
        self.now_ms = now_ms
        self.version = 0
        self.records: dict[str, tuple[int, bytes]] = {}

    def publish(self, replica: str, incarnation: str = "1", ttl_ms: int = TTL_MS) -> None:
        self.version = self.version + 1 if self.version else self.now_ms * 1000
        state = json.dumps(asdict(ReplicaState(replica, incarnation)))
        head = f"{self.now_ms + ttl_ms:013d}{ttl_ms:09d}{self.version:016d}{len(incarnation):03d}{incarnation}"
        self.records[replica] = (self.version, (head + state).encode())

    def reply(self, since: int) -> list[Any]:
        everything = since > self.version
        found = {name: one for name, (version, one) in self.records.items() if everything or version > since}
        return [self.now_ms, self.version, [name.encode() for name in found], list(found.values())]

    def copy(self, *, clock_ms: int = 0) -> Server:
        """A server that takes over with all of it, its clock set off by ``clock_ms``."""
        other = Server(self.now_ms + clock_ms)
        other.version, other.records = self.version, dict(self.records)
        return other


class Client:
    """A view with a clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.unreadable = 0
        self.view = FleetView(holder_of, on_unreadable=self._count, clock=lambda: self.now_s)

    def _count(self) -> None:
        self.unreadable += 1

    def look(self, server: Server) -> list[str]:
        return self.take(server.reply(self.view.version))

    def take(self, reply: list[Any]) -> list[str]:
        now_ms, version, names, records = reply
        self.view.take(now_ms, version, version, names, records)
        return self.seen()

    def seen(self) -> list[str]:
        return [f"{one.state.replica}{one.state.incarnation}" for one in self.view.live()]


def pass_ms(milliseconds: int, client: Client, *servers: Server) -> None:
    client.now_s += milliseconds / 1000
    for server in servers:
        server.now_ms += milliseconds


def test_only_what_changed_is_asked_for_and_all_are_known() -> None:
    server, client = Server(), Client()
    for replica in "ba":
        server.publish(replica)
    assert client.look(server) == ["a1", "b1"]
    server.publish("b", "2")
    assert server.reply(client.view.version)[2] == [b"b"]
    assert client.look(server) == ["a1", "b2"]


def test_a_lease_ends_by_the_servers_clock() -> None:
    server, client = Server(), Client()
    server.publish("a")
    client.look(server)
    server.now_ms += TTL_MS
    assert client.look(server) == []


def test_a_lease_ends_by_this_processs_clock_where_the_servers_stands_still() -> None:
    server, client = Server(), Client()
    server.publish("a")
    client.look(server)
    client.now_s += TTL_MS / 1000
    assert client.look(server) == []


@pytest.mark.parametrize("dead_for_ms", [0, 1000, 5000])
@pytest.mark.parametrize("lost", [False, True])
def test_a_fail_over_to_a_clock_a_minute_behind_gives_a_dead_replica_no_new_life(dead_for_ms: int, lost: bool) -> None:
    first, client = Server(), Client()
    first.publish("dead")
    first.publish("alive")
    second = first.copy(clock_ms=-60_000)
    if lost:
        first.publish("alive")
    client.look(first)
    for _ in range(dead_for_ms // 500):
        pass_ms(500, client, first, second)
        first.publish("alive")
        if not lost:
            second.publish("alive")
        client.look(first)
    left_ms = TTL_MS - dead_for_ms
    for step in range(1, 80):
        pass_ms(250, client, second)
        second.publish("alive")
        expected = {"alive1", "dead1"} if step * 250 < left_ms else {"alive1"}
        assert set(client.look(second)) == expected, step


def test_a_fail_over_to_a_clock_a_minute_ahead_costs_a_publication() -> None:
    first, client = Server(), Client()
    first.publish("a")
    client.look(first)
    second = first.copy(clock_ms=60_000)
    assert client.look(second) == []
    second.publish("a")
    assert client.look(second) == ["a1"]


@pytest.mark.parametrize("clock_ms", [-60_000, 0, 60_000])
def test_a_server_that_lost_everything_is_believed(clock_ms: int) -> None:
    first, client = Server(), Client()
    for replica in "ab":
        first.publish(replica)
    client.look(first)
    empty = Server(first.now_ms + clock_ms)
    pass_ms(10, client, empty)
    client.look(empty)
    empty.publish("a", "2")
    assert "a2" in client.look(empty)
    pass_ms(TTL_MS, client, empty)
    empty.publish("a", "2")
    assert client.look(empty) == ["a2"]


@pytest.mark.parametrize("late_ms", [TTL_MS - 1, TTL_MS])
def test_a_lease_ends_between_two_replies(late_ms: int) -> None:
    server, client = Server(), Client()
    server.publish("a")
    client.look(server)
    client.now_s += late_ms / 1000
    assert client.seen() == (["a1"] if late_ms < TTL_MS else [])


def test_a_reply_of_a_page_is_gone_on_from_where_it_ends() -> None:
    server, client = Server(), Client()
    for replica in "abc":
        server.publish(replica)
    everything = server.reply(0)
    client.view.take(everything[0], everything[1], everything[1] - 1, everything[2][:2], everything[3][:2])
    assert client.seen() == ["a1", "b1"]
    assert server.reply(client.view.version)[2] == [b"c"]
    assert client.look(server) == ["a1", "b1", "c1"]


def test_a_replica_that_was_retired_is_gone_until_it_publishes_again() -> None:
    server, client = Server(), Client()
    server.publish("a")
    client.look(server)
    server.publish("a", ttl_ms=0)
    assert client.look(server) == []
    server.publish("a", "2")
    assert client.look(server) == ["a2"]


def test_what_is_remembered_of_the_gone_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_view, "MAX_LAPSED", 8)
    server, client = Server(), Client()
    for number in range(50):
        server.publish(f"r{number}")
        client.look(server)
        pass_ms(TTL_MS, client, server)
        client.look(server)
    assert len(client.view._lapsed) == 8


@pytest.mark.parametrize("wrong", [b"nonsense", b"", b"\xff" * 60])
def test_a_record_that_cannot_be_read_leaves_the_others(wrong: bytes) -> None:
    server, client = Server(), Client()
    for replica in ("a", "bad", "c"):
        server.publish(replica)
    server.records["bad"] = (server.records["bad"][0], wrong)
    with capture_logs() as logs:
        assert client.look(server) == ["a1", "c1"]
        for _ in range(3):
            server.publish("bad")
            server.records["bad"] = (server.version, wrong)
            client.look(server)
        assert client.unreadable == 4
        expected = {"event": "directory_record_unreadable", "log_level": "warning", "replica": "bad"}
        assert logs == [expected], "once a minute"
        client.now_s += fleet_view.LOG_EVERY_S
        server.publish("bad")
        server.records["bad"] = (server.version, wrong)
        client.look(server)
    assert len(logs) == 2


def test_a_replica_whose_next_record_cannot_be_read_ends_with_its_lease() -> None:
    server, client = Server(), Client()
    server.publish("a")
    client.look(server)
    server.publish("a", "2")
    server.records["a"] = (server.version, b"nonsense")
    assert client.look(server) == ["a1"]
    pass_ms(TTL_MS, client, server)
    assert client.look(server) == []
    server.publish("a", "3")
    assert client.look(server) == ["a3"]


def test_records_of_older_and_newer_releases_are_read() -> None:
    server, client = Server(), Client()
    server.publish("a")
    version, record = server.records["a"]
    head, state = record[:42], json.loads(record[42:])
    for other in ({**state, "new": [1]}, {"replica": "a", "incarnation": "1", "load": {"running": 2, "newer": 1}}):
        version += 1
        client.take([server.now_ms, version, [b"a"], [_at(head, version) + json.dumps(other).encode()]])
        assert client.seen() == ["a1"]
    assert not client.unreadable
    assert client.view.live()[0].state.load.running == 2


def _at(head: bytes, version: int) -> bytes:
    return head[:22] + b"%016d" % version + head[38:]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("publish"), st.sampled_from("abc"), st.sampled_from("12")),
            st.tuples(st.just("pass"), st.integers(1, 2500)),
            st.tuples(st.just("look")),
            st.tuples(st.just("fail over"), st.sampled_from((-60_000, -500, 0, 500, 60_000))),
            st.tuples(st.just("lose all"), st.sampled_from((-60_000, 0, 60_000))),
        ),
        max_size=40,
    )
)
def test_no_replica_is_seen_longer_than_its_lease_after_it_last_published(steps: list[tuple[Any, ...]]) -> None:
    server, client = Server(), Client()
    published_s: dict[str, float] = {}
    for step in steps:
        if step[0] == "publish":
            server.publish(*step[1:])
            published_s[step[1] + step[2]] = client.now_s
        elif step[0] == "pass":
            pass_ms(step[1], client, server)
        elif step[0] == "fail over":
            server = server.copy(clock_ms=step[1])
        elif step[0] == "lose all":
            server = Server(server.now_ms + step[1])
        # Looking at each step: a client that never looked cannot know when a record was new.
        for seen in client.look(server):
            assert client.now_s - published_s[seen] < TTL_MS / 1000
