"""What the gateway tells of savings, and what it does while the ledger is gone."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from aloraserve.errors import DirectoryUnavailableError, InvalidRequestError
from aloraserve.savings.base import CachedBySource, CallSavings
from aloraserve.savings.memory import MemoryLedger
from aloraserve.wire.sampling import SamplingSettings
from aloraserve_services.gateway import savings as savings_module
from aloraserve_services.gateway.metrics import METRICS
from aloraserve_services.gateway.prompts import Prompt
from aloraserve_services.gateway.savings import SavingsReporter, parse_window
from aloraserve_services.plan import FleetPlan

SAVED = CallSavings(0.75, 64, 32, 0.5, CachedBySource(own=1, base=2, sibling=3, unknown=4))


class Ledger(MemoryLedger):
    """A ledger that may be out of reach, and knows how often it was written."""

    is_gone = False

    def __init__(self) -> None:
        super().__init__()
        self.flushes = 0
        self.is_closed = False
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


@pytest.fixture
def priced(plan: FleetPlan) -> FleetPlan:
    return replace(plan, settings=plan.settings.model_copy(update={"accelerator_hour_price": 3.6}))


def desk(plan: FleetPlan, ledger: Ledger) -> SavingsReporter:
    made = SavingsReporter(
        replace(plan, settings=plan.settings.model_copy(update={"redis_url": "redis://127.0.0.1:1"}))
    )
    made._ledger = ledger  # type: ignore[assignment]
    return made


def prompt(plan: FleetPlan, adapter: str | None, tokens: int = 100) -> Prompt:
    return Prompt(
        model=adapter or "base",
        token_ids=list(range(tokens)),
        adapter=plan.adapter(adapter) if adapter else None,
        sampling=SamplingSettings(max_tokens=1),
    )


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


async def test_a_report_has_a_total_and_each_adapter_by_its_served_name(plan: FleetPlan, ledger: Ledger) -> None:
    one = desk(plan, ledger)
    one.note(prompt(plan, "safety"), SAVED, 0.25)
    one.note(prompt(plan, "safety"), replace(SAVED, saved_s=-0.25), 0.75)
    one.note(prompt(plan, None), replace(SAVED, saved_s=0.0), 1.0)
    one.note(prompt(plan, "plain"), replace(SAVED, saved_s=0.0), 1.0)
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
        "confidence": 0.5,
        "accelerator_s": 0.5,
    }
    assert report["total"]["calls"] == 4
    assert report["total"]["net_saved_ttft_s"] == 0.5


async def test_an_adapter_that_is_no_longer_served_is_told_of_as_another(plan: FleetPlan, ledger: Ledger) -> None:
    desk(plan, ledger).note(prompt(plan, "safety"), SAVED, 0.25)
    without = desk(replace(plan, adapters=()), ledger)
    assert [(one["name"], one["kind"]) for one in (await without.report("1m"))["adapters"]] == [("safety", "other")]


async def test_with_a_price_an_engines_time_has_a_cost(priced: FleetPlan, ledger: Ledger) -> None:
    one = desk(priced, ledger)
    one.note(prompt(priced, "safety"), SAVED, 0.25)
    report = await one.report("24h")
    assert report["total"]["cost"] == report["adapters"][0]["cost"] == 0.00075


async def test_without_calls_a_report_is_of_zeros(plan: FleetPlan, ledger: Ledger) -> None:
    report = await desk(plan, ledger).report("5m")
    assert report["adapters"] == []
    assert (report["total"]["calls"], report["total"]["ttft_mean_s"]) == (0, 0.0)


async def test_while_the_ledger_is_gone_a_report_says_so_and_is_empty(plan: FleetPlan, ledger: Ledger) -> None:
    one, failures = desk(plan, ledger), METRICS.ledger_failures
    one.note(prompt(plan, "safety"), SAVED, 0.25)
    ledger.is_gone, before = True, _count(failures)
    report = await one.report("1h")
    assert (report["ledger"], report["adapters"], report["total"]["calls"]) == ("cannot be reached", [], 0)
    assert _count(failures) == before + 1


async def test_figures_are_written_now_and_then_and_at_the_end(
    plan: FleetPlan, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(savings_module, "FLUSH_EVERY_S", 0.001)
    ledger.is_gone = True
    async with desk(plan, ledger).flushing():
        async with asyncio.timeout(5):
            while ledger.flushes < 3:
                ledger.flushed.clear()
                await ledger.flushed.wait()
        before = ledger.flushes
    assert ledger.flushes > before
    assert ledger.is_closed


def _count(counter: Any) -> float:
    return float(counter._value.get())
