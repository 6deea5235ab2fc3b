"""Clocks are set, and those of machines differ: what decides anything goes by monotonic ones, or by the server's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PLATFORM = Path(__file__).resolve().parents[2] / "platform/aloraserve"
DECIDING = ("blocks", "directory", "engine_model", "limits", "redis", "routing", "scaling", "serving")
SHOWN_TO_PEOPLE = {"serving/receipt_writer.py", "serving/reuse_observer.py"}
"""They say when something was."""
WALL_CLOCK = re.compile(r"\btime\.time(_ns)?\b|\bdatetime\.(now|utcnow|today)\b|\bimport time_ns\b")


@pytest.mark.parametrize("room", DECIDING)
def test_nothing_that_decides_reads_the_wall_clock(room: str) -> None:
    files = {path.relative_to(PLATFORM).as_posix(): path.read_text() for path in (PLATFORM / room).rglob("*.py")}
    assert files
    found = {name for name, text in files.items() if WALL_CLOCK.search(text)}
    assert found <= SHOWN_TO_PEOPLE
