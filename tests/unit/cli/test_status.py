"""What ``aloraserve status`` says of adapters."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from aloraserve_services.cli.status import MAX_SHOWN, redis_restarts, show, show_restarts
from aloraserve_services.local.run_file import Running


def place(replica: str, level: str, *, pinned: bool = False) -> dict[str, Any]:
    return {"replica": replica, "level": level, "pinned": pinned}


def adapter(name: str, *places: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "kind": "alora", "rank": 8, "digest": "ab", "untrained": False, "loaded": list(places)}


def printed(*adapters: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), record=True, width=160)
    content = {"model": "m", "dtype": "d", "policy": "p", "directory": "ok", "block_tokens": 32, "replicas": []}
    show(console, "http://here", content | {"adapters": list(adapters), "refused": []})
    return console.export_text()


@pytest.mark.parametrize(
    ("places", "text"),
    [
        ((), "none (cold)"),
        ((place("engine-0", "host"), place("engine-1", "slot")), "slot: engine-1; host: engine-0"),
        ((place("engine-0", "host", pinned=True),), "host: engine-0; pinned"),
    ],
)
def test_each_adapter_is_shown_where_it_is(places: tuple[dict[str, Any], ...], text: str) -> None:
    assert text in printed(adapter("safety", *places))


def test_of_many_adapters_the_warm_ones_are_shown_and_the_others_counted() -> None:
    cold = [adapter(f"cold-{number:04}") for number in range(MAX_SHOWN + 9)]
    shown = printed(*cold, adapter("warm", place("engine-0", "slot")))
    assert "warm" in shown
    assert "and 10 more" in shown


def test_a_redis_that_was_started_again_is_mentioned() -> None:
    def text(**fields: Any) -> str:
        console = Console(file=io.StringIO(), record=True, width=160)
        show_restarts(console, redis_restarts(Running(1, 0.0, "http://here", **fields)))
        return console.export_text()

    assert text() == ""
    assert "again once, last at 2026-01-01T00:00:00+00:00" in text(redis_restarts=1, redis_restarted_at=1767225600.0)
    assert "again 3 times" in text(redis_restarts=3, redis_restarted_at=1767225600.0)
