"""The end of a pod: its node is found, and its replicas are waited for as long as somebody stops them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from aloraserve_services.node_drain import HEAD_GONE_S, main, own_node, wait_until_left


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
    clock, counts = Clock(), iter([1] * 400 + [0])
    gone = wait_until_left(
        lambda: next(counts), lambda: not 20 < clock.now_s < 70, 3600, clock=clock.read, sleep=clock.sleep
    )
    assert gone == 0


def test_a_head_s_address_is_needed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(SystemExit):
        main(["--within", "5"])
    assert "RAY_ADDRESS is not set" in capsys.readouterr().err
