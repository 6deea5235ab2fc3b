"""Accounts of reuse of the whole fleet: each gateway keeps its own sums, and asks the others for theirs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aloraserve.diagnosis.window import summed
from aloraserve_services.gateway.receipts import AskAll
from aloraserve_services.gateway.window import parse_window


class FleetDiagnosis:
    """Sums up the accounts of all gateways.

    Args:
        own_diagnosis: returns this gateway's sums of the last so many seconds.
        ask_all: reaches all gateways, this one too; None if there is no other.
    """

    def __init__(
        self, own_diagnosis: Callable[[int], Awaitable[dict[str, Any]]], ask_all: AskAll | None = None
    ) -> None:
        self._own_diagnosis = own_diagnosis
        self._ask_all = ask_all

    async def report(self, window: str | None) -> dict[str, Any]:
        """Return the sums of a window that ends now, and of how many gateways they are.

        Args:
            window: such as "15m" or "1h"; None: :data:`~aloraserve_services.gateway.window.DEFAULT_WINDOW`.

        Raises:
            InvalidRequestError: ``window`` is not a window.
        """
        window_s = parse_window(window)
        found = [] if self._ask_all is None else await self._ask_all("own_diagnosis", window_s)
        # Where the others cannot be asked, this one still knows its own.
        found = found or [await self._own_diagnosis(window_s)]
        return {"window_s": window_s, "gateways": len(found)} | summed(found)
