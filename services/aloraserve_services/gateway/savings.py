"""Savings in the gateway: each call goes to the fleet's ledger, and its totals to whoever asks."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from aloraserve.adapters import AdapterRegistry
from aloraserve.errors import DirectoryUnavailableError
from aloraserve.savings.base import SavingsEntry, SavingsFigures, SavingsLedger
from aloraserve.serving.generation import Generation
from aloraserve.serving.observers import CallObserver
from aloraserve_services.gateway.ledger_flush import LedgerFlush
from aloraserve_services.gateway.window import parse_window


class SavingsReporter(CallObserver):
    """See the module's docstring.

    Args:
        ledger: of the fleet.
        base_model: its served name.
        adapters: that are served now.
        hour_price: what an hour of one engine costs, None if nobody says.
        on_failure: called for each flush that fails.
    """

    def __init__(
        self,
        ledger: SavingsLedger,
        base_model: str,
        adapters: AdapterRegistry,
        *,
        hour_price: float | None = None,
        on_failure: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._base_model = base_model
        self._adapters = adapters
        self._hour_price = hour_price
        self._flush = LedgerFlush(ledger, "savings", on_failure)

    def answered(self, generation: Generation) -> None:
        """Count a call, if its replica says what was saved."""
        request, savings = generation.request, generation.savings
        if savings is not None:
            entry = SavingsEntry(request.call.adapter or "", generation.ttft_s, request.prompt_tokens, savings)
            self._ledger.add(entry, time.time())

    @contextlib.asynccontextmanager
    async def flushing(self) -> AsyncIterator[None]:
        """Write what was counted to the fleet's ledger now and then, and at the end."""
        async with self._flush.running():
            yield

    async def report(self, window: str | None) -> dict[str, Any]:
        """Return the totals of a window that ends now, and the share of each adapter.

        Args:
            window: such as "15m" or "1h", :data:`~aloraserve_services.gateway.window.DEFAULT_WINDOW` if None.

        Raises:
            InvalidRequestError: ``window`` is not a window.
        """
        window_s = parse_window(window)
        found, ledger = dict[str, SavingsFigures](), "cannot be reached"
        if await self._flush.flush():
            with contextlib.suppress(DirectoryUnavailableError):
                found, ledger = await self._ledger.totals(window_s, time.time()), "ok"
        total = SavingsFigures()
        for figures in found.values():
            total.add(figures)
        kinds = {version.name: version.kind for version in self._adapters.all()}
        return {
            "window_s": window_s,
            "ledger": ledger,
            "total": self._shown(total),
            "adapters": [
                {"name": name or self._base_model, "kind": kinds.get(name, "other") if name else "base"}
                | self._shown(figures)
                for name, figures in sorted(found.items())
            ],
        }

    def _shown(self, figures: SavingsFigures) -> dict[str, Any]:
        calls = max(figures.calls, 1)
        shown: dict[str, Any] = {
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
            "saved_queue_s": round(figures.saved_queue_us / 1e6, 6),
            "confidence": round(figures.confidence_milli / calls / 1000, 3),
            # What was not prefilled is what an engine did not work for.
            "accelerator_s": round(figures.saved_prefill_s, 6),
        }
        if self._hour_price is not None:
            shown["cost"] = round(figures.saved_prefill_s / 3600 * self._hour_price, 6)
        return shown
