"""What --fault accepts."""

from __future__ import annotations

import math

import pytest

from aloraserve.errors import SettingsError
from aloraserve.simulation.faults import Fault, parse_fault, parse_faults


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("kill:3@60", Fault("kill", 3, 60, math.inf)),
        ("restart:0@90.5", Fault("restart", 0, 90.5, math.inf)),
        ("redis-outage@100-130", Fault("redis-outage", 0, 100, 130)),
        ("redis-delay:0.005@10-20", Fault("redis-delay", 0.005, 10, 20)),
        ("event-delay:0.5", Fault("event-delay", 0.5, 0, math.inf)),
        ("event-loss:0.01@5-10", Fault("event-loss", 0.01, 5, 10)),
    ],
)
def test_faults_are_read(text: str, fault: Fault) -> None:
    assert parse_fault(text, 8) == fault


@pytest.mark.parametrize(
    "text",
    ["", "kill", "kill:3", "kill:8@1", "kill:1.5@1", "kill:1@1-2", "redis-outage", "redis-outage@9", "redis-outage@9-9",
     "redis-outage:1@1-2",
     "event-loss:2", "event-loss", "redis-delay", "event-delay:-1", "event-delay:1@5", "flood:1@2"],
)  # fmt: skip
def test_what_is_not_a_fault_is_refused_with_what_is_accepted(text: str) -> None:
    with pytest.raises(SettingsError, match=r"accepted|numbered|end after"):
        parse_fault(text, 8)


def test_a_fault_lasts_from_its_start_to_before_its_end() -> None:
    fault = parse_fault("event-delay:1@5-10", 1)
    assert [fault.is_on(at) for at in (4.9, 5.0, 9.9, 10.0)] == [False, True, True, False]


def test_there_are_not_too_many() -> None:
    with pytest.raises(SettingsError, match="1001 faults"):
        parse_faults(["event-delay:1"] * 1001, 1)
