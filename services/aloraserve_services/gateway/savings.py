"""What the gateway keeps and tells of savings: each call to the fleet's ledger, its totals to whoever asks."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import structlog

from aloraserve.errors import DirectoryUnavailableError, InvalidRequestError
from aloraserve.savings.base import LONGEST_WINDOW_S, MINUTE_S, CallSavings, SavingsEntry, SavingsFigures
from aloraserve_services.gateway.metrics import METRICS
from aloraserve_services.gateway.prompts import Prompt
from aloraserve_services.plan import FleetPlan

FLUSH_EVERY_S = 2.0
DEFAULT_WINDOW = "1h"
_WINDOW = re.compile(r"([1-9][0-9]{0,5})(s|m|h)")
_UNIT_S = {"s": 1, "m": 60, "h": 3600}

log = structlog.get_logger(__name__)


class SavingsReporter:
    """See the module's docstring.

    Args:
        plan: the fleet's.
    """

    def __init__(self, plan: FleetPlan) -> None:
        self._ledger = plan.open_ledger()
        self._base = plan.served_name
        self._price = plan.settings.accelerator_hour_price
        self._kinds = {one.name: str(one.kind) for one in plan.adapters}

    def note(self, prompt: Prompt, savings: CallSavings, ttft_s: float) -> None:
        """Count an answered call."""
        name = prompt.adapter.name if prompt.adapter else ""
        self._ledger.add(SavingsEntry(name, ttft_s, len(prompt.token_ids), savings), time.time())

    @contextlib.asynccontextmanager
    async def flushing(self) -> AsyncIterator[None]:
        """Write what was counted to the fleet's ledger now and then, and at the end."""
        task = asyncio.create_task(self._keep_flushing(), name="flush_savings")
        try:
            yield
        finally:
            task.cancel()
            await self._flush()
            await self._ledger.close()

    async def report(self, window: str | None) -> dict[str, Any]:
        """Return the totals of a window that ends now.

        Args:
            window: such as "15m" or "1h", :data:`DEFAULT_WINDOW` if None.

        Raises:
            InvalidRequestError: the window is none.
        """
        window_s = parse_window(DEFAULT_WINDOW if window is None else window)
        found, ledger = dict[str, SavingsFigures](), "cannot be reached"
        if await self._flush():
            with contextlib.suppress(DirectoryUnavailableError):
                found, ledger = await self._ledger.totals(window_s, time.time()), "ok"
        total = SavingsFigures()
        for figures in found.values():
            total.add(figures)
        return {
            "window_s": window_s,
            "ledger": ledger,
            "total": self._told(total),
            "adapters": [
                {"name": name or self._base, "kind": self._kind(name)} | self._told(figures)
                for name, figures in sorted(found.items())
            ],
        }

    async def _keep_flushing(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_EVERY_S)
            await self._flush()

    async def _flush(self) -> bool:
        """Write what was counted; return whether that was possible."""
        try:
            await self._ledger.flush()
        except DirectoryUnavailableError as error:
            METRICS.ledger_failures.inc()
            log.warning("savings_lost", cause=error.message)
            return False
        return True

    def _kind(self, name: str) -> str:
        return self._kinds.get(name, "other") if name else "base"

    def _told(self, figures: SavingsFigures) -> dict[str, Any]:
        calls = max(figures.calls, 1)
        told: dict[str, Any] = {
            "calls": figures.calls,
            "prompt_tokens": figures.prompt_tokens,
            "saved_tokens": figures.saved_tokens,
            "cached_tokens": {
                "own": figures.own_tokens,
                "base": figures.base_tokens,
                "sibling": figures.sibling_tokens,
                "unknown": figures.unknown_tokens,
            },
            "ttft_mean_s": round(figures.ttft_us / calls / 1e6, 6),
            "counterfactual_ttft_mean_s": round(figures.counterfactual_ttft_s / calls, 6),
            "saved_ttft_s": round(figures.saved_us / 1e6, 6),
            "lost_ttft_s": round(figures.lost_us / 1e6, 6),
            "net_saved_ttft_s": round(figures.net_saved_s, 6),
            "confidence": round(figures.confidence_milli / calls / 1000, 3),
            # What was not prefilled is what an engine did not work for.
            "accelerator_s": round(figures.net_saved_s, 6),
        }
        if self._price is not None:
            told["cost"] = round(figures.net_saved_s / 3600 * self._price, 6)
        return told


def parse_window(text: str) -> int:
    """Return a window in seconds.

    Raises:
        InvalidRequestError: it is not a number of seconds, minutes or hours between a minute and a day.
    """
    match = _WINDOW.fullmatch(text)
    seconds = int(match[1]) * _UNIT_S[match[2]] if match else 0
    if not MINUTE_S <= seconds <= LONGEST_WINDOW_S:
        raise InvalidRequestError(
            f"window is {text[:20]!r}; 1m to 24h are accepted, such as 90s, 15m or 1h", param="window"
        )
    return seconds
