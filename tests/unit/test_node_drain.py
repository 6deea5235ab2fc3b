"""The end of a pod: its node is found, and its replicas are waited for as long as somebody stops them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from aloraserve_services import node_drain
from aloraserve_services.node_drain import (
    DRAINS_BEGIN_S,
    HEAD_GONE_S,
    main,
    own_node,
    refusal_of,
    wait_for_drains,
    wait_until_left,
)


class Clock:
    """A clock that runs while somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def read(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def node(address: str, state: int = 0) -> SimpleNamespace:
    """Return a node as Ray's head describes it; state 1 is dead."""
    return SimpleNamespace(node_manager_address=address, state=state)


def test_the_node_of_this_machine_is_the_living_one_at_its_address() -> None:
    nodes = {b"\x01": node("10.0.0.1"), b"\x02": node("10.0.0.2", 1), b"\x03": node("10.0.0.2")}
    assert own_node(nodes, frozenset({"127.0.0.1", "10.0.0.2"})) == "03"
    assert own_node(nodes, frozenset({"10.0.0.9"})) is None


def test_it_ends_with_the_last_replica() -> None:
    clock, counts = Clock(), iter([2, 2, 1, 0])
    assert wait_until_left(lambda: next(counts), lambda: True, 60, clock=clock.read, sleep=clock.sleep) == 0
    assert clock.now_s == pytest.approx(1.5)


def test_it_ends_when_time_is_up() -> None:
    clock = Clock()
    assert wait_until_left(lambda: 1, lambda: True, 30, clock=clock.read, sleep=clock.sleep) == 1
    assert clock.now_s == pytest.approx(30)


def test_it_ends_early_when_nobody_is_left_who_would_stop_a_replica() -> None:
    clock = Clock()
    assert wait_until_left(lambda: 1, lambda: False, 3600, clock=clock.read, sleep=clock.sleep) == 1
    assert HEAD_GONE_S <= clock.now_s <= HEAD_GONE_S + 1


def test_a_head_that_restarts_is_waited_for() -> None:
    clock, counts = Clock(), iter([1] * 800 + [0])
    gone = wait_until_left(
        lambda: next(counts), lambda: not 20 < clock.now_s < 320, 3600, clock=clock.read, sleep=clock.sleep
    )
    assert gone == 0


def test_a_head_s_address_is_needed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(SystemExit):
        main(["--within", "5"])
    assert "RAY_ADDRESS is not set" in capsys.readouterr().err


def test_the_head_waits_for_the_last_node_that_is_drained() -> None:
    """The hooks of the other pods begin after its own, not all at once."""
    clock = Clock()

    def count() -> int:
        return int(10 <= clock.now_s < 500) + int(400 <= clock.now_s < 900)

    assert wait_for_drains(count, 3600, clock=clock.read, sleep=clock.sleep) == 0
    assert 900 <= clock.now_s <= 900 + DRAINS_BEGIN_S + 1


def test_a_head_that_ends_alone_waits_no_longer_than_hooks_take_to_begin() -> None:
    clock = Clock()
    assert wait_for_drains(lambda: 0, 3600, clock=clock.read, sleep=clock.sleep) == 0
    assert clock.now_s <= DRAINS_BEGIN_S + 1


def test_the_head_waits_no_longer_than_it_has_time() -> None:
    clock = Clock()
    assert wait_for_drains(lambda: 2, 30, clock=clock.read, sleep=clock.sleep) == 2
    assert clock.now_s == pytest.approx(30)


class Head:
    """A client of Ray's head that knows three nodes, of which one is dead."""

    def get_all_node_info(self, timeout: float) -> dict[bytes, SimpleNamespace]:
        return {b"\x01": node("10.0.0.1"), b"\x02": node("10.0.0.2"), b"\x03": node("10.0.0.3", 1)}

    def get_draining_nodes(self, timeout: float) -> dict[str, int]:
        return {"02": 1_790_000_000_000, "03": 1_790_000_000_000}


def test_a_dead_node_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(node_drain, "_client", lambda _: Head())
    assert main(["--head", "--within", "0", "--address", "10.0.0.1:6379"]) == 0
    assert "still being drained: 1" in capsys.readouterr().out


class Refusing(Head):
    """A head that drains nothing at first, or ever.

    Args:
        times: how often it refuses.
    """

    def __init__(self, times: int) -> None:
        self.left = times

    def drain_node(self, node_id: str, reason: int, message: str, deadline_ms: int) -> tuple[bool, str]:
        self.left -= 1
        return (True, "") if self.left < 0 else (False, "the node has only just come")


def test_after_a_refusal_nothing_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(node_drain, "_client", lambda _: Refusing(99))
    monkeypatch.setattr(node_drain, "_own_addresses", lambda: frozenset({"10.0.0.2"}))
    monkeypatch.setattr(node_drain, "REFUSED_PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr(node_drain, "_count_replicas", lambda _: pytest.fail("replicas that nobody stops"))
    assert main(["--within", "1900", "--address", "10.0.0.1:6379"]) == 0
    assert capsys.readouterr().out == "node_drain: refused: the node has only just come\n"


@pytest.mark.parametrize(("times", "reason"), [(0, None), (2, None), (3, "the node has only just come")])
def test_a_refused_drain_is_asked_for_again(times: int, reason: str | None) -> None:
    clock, head = Clock(), Refusing(times)
    assert refusal_of(lambda: head.drain_node("02", 0, "", 0), sleep=clock.sleep) == reason


def test_a_head_that_is_gone_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lose(address: str) -> Head:
        raise ConnectionError(address)

    monkeypatch.setattr(node_drain, "_client", lose)
    assert main(["--head", "--within", "60", "--address", "10.0.0.1:6379"]) == 0
    assert "does not answer: ConnectionError" in capsys.readouterr().out
