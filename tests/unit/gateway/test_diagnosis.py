"""Diagnosis of the fleet: every gateway's sums once, and one's own where the others cannot be asked."""

from __future__ import annotations

from typing import Any

import pytest

from aloraserve.diagnosis.account import Ladder, MissCause, ReuseAccount
from aloraserve.diagnosis.window import DiagnosisWindow
from aloraserve.errors import InvalidRequestError
from aloraserve_services.gateway.diagnosis import FleetDiagnosis


class Gateway:
    def __init__(self, calls: int) -> None:
        self._window = DiagnosisWindow()
        for _ in range(calls):
            self._window.add(ReuseAccount(Ladder(10, 9, 8, 7, 6, 5), {MissCause.FULL: 1}), 1000.0)

    async def own_diagnosis(self, window_s: int) -> dict[str, Any]:
        return self._window.totals(window_s, 1000.0)


async def test_all_gateways_are_summed_up_once() -> None:
    gateways = [Gateway(1), Gateway(2)]

    async def ask_all(method: str, argument: Any) -> list[Any]:
        return [await getattr(gateway, method)(argument) for gateway in gateways]

    found = await FleetDiagnosis(gateways[0].own_diagnosis, ask_all).report("15m")
    assert (found["gateways"], found["calls"], found["window_s"]) == (2, 3, 900)
    assert (found["ladder"]["delivered"], found["missed"]["full"]) == (15, 3)


async def test_where_nobody_answers_one_s_own_sums_are_left() -> None:
    async def nobody(method: str, argument: Any) -> list[Any]:
        return []

    for ask_all in (None, nobody):
        found = await FleetDiagnosis(Gateway(2).own_diagnosis, ask_all).report(None)
        assert (found["gateways"], found["calls"], found["window_s"]) == (1, 2, 3600)


async def test_another_window_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="window is '2d'"):
        await FleetDiagnosis(Gateway(0).own_diagnosis).report("2d")
