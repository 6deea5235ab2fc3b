"""Receipts of the whole fleet: each gateway keeps its own, and asks the others for what it does not have."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

ASK_TIMEOUT_S = 1.0
"""How long the other gateways may take to answer; after that only this one's receipts count."""
AskAll = Callable[[str, Any], Awaitable[list[Any]]]
"""Calls a method of every gateway with one argument; returns the answers of those that answered."""


class FleetReceipts:
    """Looks for receipts in all gateways. Nothing is written anywhere while calls are routed.

    Args:
        own_receipt: returns this gateway's receipt of a request, None if it has none.
        own_receipts: returns this gateway's last ones, the newest first.
        ask_all: reaches all gateways, this one too; None if there is no other.
    """

    def __init__(
        self,
        own_receipt: Callable[[str], Awaitable[dict[str, Any] | None]],
        own_receipts: Callable[[int], Awaitable[list[dict[str, Any]]]],
        ask_all: AskAll | None = None,
    ) -> None:
        self._own_receipt = own_receipt
        self._own_receipts = own_receipts
        self._ask_all = ask_all

    async def get(self, request_id: str) -> dict[str, Any] | None:
        """Return a request's last receipt, None if no gateway has one."""
        found = await self._own_receipt(request_id)
        if found is not None or self._ask_all is None:
            return found
        answers = [receipt for receipt in await self._ask_all("own_receipt", request_id) if receipt is not None]
        return max(answers, key=lambda receipt: float(receipt["at_s"]), default=None)

    async def latest(self, limit: int) -> list[dict[str, Any]]:
        """Return up to ``limit`` receipts, the newest first, one per request."""
        found = await self._own_receipts(limit)
        if self._ask_all is not None:
            found = [receipt for answer in [found, *await self._ask_all("own_receipts", limit)] for receipt in answer]
        newest: dict[str, dict[str, Any]] = {}
        for receipt in sorted(found, key=lambda receipt: float(receipt["at_s"]), reverse=True):
            newest.setdefault(receipt["request_id"], receipt)
        return list(newest.values())[:limit]


def ask_gateways(deployment: str, app: str) -> AskAll:
    """Return how a gateway reaches all gateways of its application through Serve.

    Args:
        deployment: name of the gateways' deployment.
        app: name of the application.
    """
    from ray import serve
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    async def ask_all(method: str, argument: Any) -> list[Any]:
        responses = serve.get_deployment_handle(deployment, app).broadcast(method, argument)
        try:
            answers = await responses.results_async(timeout_s=ASK_TIMEOUT_S, return_exceptions=True)
        except (TimeoutError, RayError, RayServeException):
            return []
        return [answer for answer in answers if not isinstance(answer, BaseException)]

    return ask_all
