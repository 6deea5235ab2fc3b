"""Receipts of the fleet: one's own first, and the other gateways' for what is not there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aloraserve_services.gateway.receipts import FleetReceipts


def receipt(request_id: str, at_s: float) -> dict[str, Any]:
    return {"request_id": request_id, "at_s": at_s}


class Kept:
    """A gateway's own receipts, the newest first."""

    def __init__(self, *receipts: dict[str, Any]) -> None:
        self._receipts = list(receipts)

    async def own_receipt(self, request_id: str) -> dict[str, Any] | None:
        return next((found for found in self._receipts if found["request_id"] == request_id), None)

    async def own_receipts(self, limit: int) -> list[dict[str, Any]]:
        return self._receipts[:limit]


class Fleet:
    """Gateways of which the first is asked."""

    def __init__(self, *gateways: Kept) -> None:
        self.questions: list[str] = []
        self._gateways = gateways
        self.receipts = FleetReceipts(gateways[0].own_receipt, gateways[0].own_receipts, self._ask_all)

    async def _ask_all(self, method: str, argument: Any) -> list[Any]:
        self.questions.append(method)
        asked: list[Callable[[Any], Awaitable[Any]]] = [getattr(gateway, method) for gateway in self._gateways]
        return [await method(argument) for method in asked]


async def test_one_s_own_receipt_is_found_without_asking_anybody() -> None:
    fleet = Fleet(Kept(receipt("a", 1.0)), Kept())
    assert await fleet.receipts.get("a") == receipt("a", 1.0)
    assert fleet.questions == []


async def test_another_gateway_s_receipt_is_found_and_of_several_the_last() -> None:
    fleet = Fleet(Kept(), Kept(receipt("a", 1.0)), Kept(receipt("a", 2.0)))
    assert await fleet.receipts.get("a") == receipt("a", 2.0)
    assert await fleet.receipts.get("b") is None


async def test_the_list_is_the_fleet_s_the_newest_first_one_per_request() -> None:
    fleet = Fleet(Kept(receipt("c", 3.0), receipt("a", 1.0)), Kept(receipt("d", 4.0), receipt("c", 2.0)))
    assert await fleet.receipts.latest(10) == [receipt("d", 4.0), receipt("c", 3.0), receipt("a", 1.0)]
    assert await fleet.receipts.latest(2) == [receipt("d", 4.0), receipt("c", 3.0)]


async def test_a_single_gateway_asks_nobody() -> None:
    own = Kept(receipt("a", 1.0))
    receipts = FleetReceipts(own.own_receipt, own.own_receipts)
    assert await receipts.latest(10) == [receipt("a", 1.0)]
    assert await receipts.get("b") is None


async def test_a_gateway_that_does_not_answer_hides_none_of_one_s_own() -> None:
    async def nobody_answers(method: str, argument: Any) -> list[Any]:
        return []

    own = Kept(receipt("a", 1.0))
    receipts = FleetReceipts(own.own_receipt, own.own_receipts, nobody_answers)
    assert await receipts.latest(10) == [receipt("a", 1.0)]
    assert await receipts.get("b") is None
