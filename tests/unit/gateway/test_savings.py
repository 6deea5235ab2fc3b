"""Savings as the gateway reports them, and what it does while the ledger is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
from support.character_tokenizer import ADAPTERS
from support.fake_pool import ANSWER, FakePool, FakeRouter, request

from aloraserve.adapters import AdapterVersion, StaticRegistry
from aloraserve.errors import DirectoryUnavailableError, InvalidRequestError
from aloraserve.routing.base import Call
from aloraserve.savings.base import CachedBySource, CallSavings
from aloraserve.savings.memory import MemoryLedger
from aloraserve.serving.attempts import Dispatcher
from aloraserve_services.gateway import ledger_flush
from aloraserve_services.gateway.savings import SavingsReporter
from aloraserve_services.gateway.window import parse_window

SAVED = CallSavings(0.75, 64, 32, 0.5, CachedBySource(own=1, base=2, sibling=3, unknown=4))


class Ledger(MemoryLedger):
    """A ledger that may be out of reach, and knows how often it was written."""

    is_gone = False

    def __init__(self) -> None:
        super().__init__()
        self.flushes = 0
        self.is_closed = False
        self.failures: list[None] = []
        self.flushed = asyncio.Event()

    async def flush(self) -> None:
        self.flushes += 1
        self.flushed.set()
        if self.is_gone:
            raise DirectoryUnavailableError("the savings ledger cannot be reached")

    async def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


def reporter(
    ledger: Ledger, adapters: Sequence[AdapterVersion] = ADAPTERS, hour_price: float | None = None
) -> SavingsReporter:
    return SavingsReporter(
        ledger,
        "base",
        StaticRegistry(adapters),
        hour_price=hour_price,
        on_failure=lambda: ledger.failures.append(None),
    )


async def answered(reporter: SavingsReporter, adapter: str, savings: CallSavings | None, ttft_s: float) -> None:
    """Have a call of 100 tokens answered."""
    token_ids = list(range(100))
    call = Call(len(token_ids), 4, [], adapter=adapter or None)
    chunk = replace(ANSWER[0], savings=savings)
    generation = await Dispatcher(cast(Any, FakeRouter()), FakePool((chunk,))).generate(
        request(token_ids=token_ids, call=call)
    )
    generation.ttft_s = ttft_s
    reporter.answered(generation)


@pytest.mark.parametrize(
    ("text", "seconds"), [("60s", 60), ("1m", 60), ("90s", 90), ("1h", 3600), ("24h", 86400), ("1440m", 86400)]
)
def test_a_window_is_a_number_and_a_unit(text: str, seconds: int) -> None:
    assert parse_window(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "1", "h", "59s", "0m", "01m", "25h", "86401s", "1.5h", "-1h", "1h ", "1H", "1d", "٣m", "9" * 50 + "s"]
)
def test_another_window_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="1m to 24h are accepted") as caught:
        parse_window(text)
    assert caught.value.param == "window"
    assert len(caught.value.message) < 100


async def test_a_report_has_a_total_and_each_adapter_by_its_served_name(ledger: Ledger) -> None:
    one = reporter(ledger)
    await answered(one, "safety", SAVED, 0.25)
    await answered(one, "safety", replace(SAVED, saved_s=-0.25, saved_queue_s=0.125), 0.75)
    await answered(one, "", replace(SAVED, saved_s=0.0), 1.0)
    await answered(one, "plain", replace(SAVED, saved_s=0.0), 1.0)
    report = await one.report(None)
    assert (report["window_s"], report["ledger"]) == (3600, "ok")
    assert [(entry["name"], entry["kind"]) for entry in report["adapters"]] == [
        ("base", "base"),
        ("plain", "lora"),
        ("safety", "alora"),
    ]
    assert report["adapters"][2] == {
        "name": "safety",
        "kind": "alora",
        "calls": 2,
        "prompt_tokens": 200,
        "saved_tokens": 128,
        "cached_tokens": {"own": 2, "base": 4, "sibling": 6, "unknown": 8},
        "ttft_mean_s": 0.5,
        "counterfactual_ttft_mean_s": 0.75,
        "saved_ttft_s": 0.75,
        "lost_ttft_s": 0.25,
        "net_saved_ttft_s": 0.5,
        "saved_queue_s": 0.125,
        "confidence": 0.5,
        "accelerator_s": 0.375,
    }
    assert report["total"]["calls"] == 4
    assert report["total"]["net_saved_ttft_s"] == 0.5


async def test_an_adapter_that_is_no_longer_served_is_reported_as_another(ledger: Ledger) -> None:
    await answered(reporter(ledger), "safety", SAVED, 0.25)
    without = reporter(ledger, ())
    assert [(one["name"], one["kind"]) for one in (await without.report("1m"))["adapters"]] == [("safety", "other")]


async def test_with_a_price_an_engines_time_has_a_cost(ledger: Ledger) -> None:
    one = reporter(ledger, hour_price=3.6)
    await answered(one, "safety", SAVED, 0.25)
    report = await one.report("24h")
    assert report["total"]["cost"] == report["adapters"][0]["cost"] == 0.00075


async def test_a_call_whose_replica_says_nothing_is_not_counted(ledger: Ledger) -> None:
    one = reporter(ledger)
    await answered(one, "safety", None, 0.25)
    assert (await one.report("1h"))["total"]["calls"] == 0


async def test_without_calls_a_report_is_of_zeros(ledger: Ledger) -> None:
    report = await reporter(ledger).report("5m")
    assert report["adapters"] == []
    assert (report["total"]["calls"], report["total"]["ttft_mean_s"]) == (0, 0.0)


async def test_while_the_ledger_is_gone_a_report_says_so_and_is_empty(ledger: Ledger) -> None:
    one = reporter(ledger)
    await answered(one, "safety", SAVED, 0.25)
    ledger.is_gone = True
    report = await one.report("1h")
    assert (report["ledger"], report["adapters"], report["total"]["calls"]) == ("cannot be reached", [], 0)
    assert ledger.failures == [None]


async def test_figures_are_written_now_and_then_and_at_the_end(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_flush, "FLUSH_EVERY_S", 0.001)
    ledger.is_gone = True
    async with reporter(ledger).flushing():
        async with asyncio.timeout(60):
            while ledger.flushes < 3:
                ledger.flushed.clear()
                await ledger.flushed.wait()
        before = ledger.flushes
    assert ledger.flushes > before
    assert ledger.is_closed
