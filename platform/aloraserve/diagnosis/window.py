"""Accounts of reuse summed up by the minute."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aloraserve.diagnosis.account import Ladder, MissCause, ReuseAccount

MINUTE_S = 60
LONGEST_WINDOW_S = 24 * 3600


@dataclass(slots=True)
class _Minute:
    number: int
    calls: int = 0
    rungs: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)


class DiagnosisWindow:
    """Sums of the last 24 hours, a minute each. For one event loop."""

    def __init__(self) -> None:
        self._minutes: deque[_Minute] = deque(maxlen=LONGEST_WINDOW_S // MINUTE_S + 1)

    def add(self, account: ReuseAccount, now_s: float) -> None:
        """Count a call.

        Args:
            account: of the call.
            now_s: seconds since 1970.
        """
        number = int(now_s // MINUTE_S)
        if not self._minutes or self._minutes[-1].number < number:
            self._minutes.append(_Minute(number))
        minute = self._minutes[-1]
        minute.calls += 1
        minute.rungs.update(account.ladder._asdict())
        minute.missed.update(account.missed)

    def totals(self, window_s: int, now_s: float) -> dict[str, Any]:
        """Return the sums of the minutes that lie in a window, whole ones: ``calls``, ``ladder`` and ``missed``.

        Args:
            window_s: its length, up to :data:`LONGEST_WINDOW_S`.
            now_s: its end, seconds since 1970.
        """
        first = int((now_s - window_s) // MINUTE_S)
        found = [minute for minute in self._minutes if minute.number > first]
        return summed({"calls": minute.calls, "ladder": minute.rungs, "missed": minute.missed} for minute in found)


def summed(totals: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sums of several totals, of minutes or of gateways."""
    calls, ladder, missed = 0, Counter[str](), Counter[str]()
    for one in totals:
        calls += one["calls"]
        ladder.update(one["ladder"])
        missed.update(one["missed"])
    return {
        "calls": calls,
        "ladder": {rung: ladder[rung] for rung in Ladder._fields},
        "missed": {cause.value: missed[cause.value] for cause in MissCause},
    }
