"""What arrives at a fleet, from the counts of its gateways: rates over windows, and how sure they are."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from typing import NamedTuple

from aloraserve.scaling.base import MAX_GATEWAYS, Demand

WINDOWS_S = (10.0, 30.0, 90.0)
"""Over which rates are taken, the last one plainly, the others only as far as chance does not explain them."""
SURE = 2.0
"""Standard deviations that chance is given."""
SAMPLE_S = 1.0
MAX_SAMPLES = 256


class Counts(NamedTuple):
    """Sums over all gateways since the first reading, as in :class:`~aloraserve.scaling.base.Demand`."""

    calls: float = 0.0
    uncached_tokens: float = 0.0
    prefill_s: float = 0.0
    prefill_squares_s2: float = 0.0
    answer_tokens: float = 0.0


class Rates(NamedTuple):
    """What arrives per second.

    Args:
        calls: per second.
        prefill_s: seconds of uncached prefill per second.
        answer_tokens: per second.
        call_prefill_s: mean prefill of a call.
        call_squares_s2: mean of its square.
        call_tokens: mean uncached tokens of a call.
    """

    calls: float = 0.0
    prefill_s: float = 0.0
    answer_tokens: float = 0.0
    call_prefill_s: float = 0.0
    call_squares_s2: float = 0.0
    call_tokens: float = 0.0


class Arrivals:
    """Sums up the gateways' counts and remembers them for a while."""

    def __init__(self) -> None:
        self._last: dict[str, Demand] = {}
        self._counts = Counts()
        self._called_s: float | None = None
        self._times_s: list[float] = []
        self._history: list[Counts] = []

    def add(self, time_s: float, demands: Sequence[Demand]) -> None:
        """Take in what the gateways say now; of one that is new only what comes from now on."""
        calls = self._counts.calls
        for demand in demands[:MAX_GATEWAYS]:
            before = self._last.get(demand.gateway)
            if before is not None:
                self._counts = Counts(
                    *(total + new for total, new in zip(self._counts, _more(before, demand), strict=True))
                )
        self._last = {demand.gateway: demand for demand in demands[:MAX_GATEWAYS]}
        if self._called_s is None or self._counts.calls > calls:
            self._called_s = time_s
        if not self._history or time_s - self._times_s[-1] >= SAMPLE_S:
            self._times_s.append(time_s)
            self._history.append(self._counts)
            del self._times_s[:-MAX_SAMPLES], self._history[:-MAX_SAMPLES]

    def rates(self, ahead_s: float) -> Rates:
        """Return what is expected to arrive ``ahead_s`` from now.

        The long window counts as it is. A shorter one, and a trend, count as far as they exceed it by more than chance
        explains: the sum of ``n`` calls' prefills is known to the root of the sum of their squares.
        """
        if len(self._history) < 2:
            return Rates()
        long = self._over(WINDOWS_S[-1])
        most = max([long.prefill_s, *(self._surely(window_s) for window_s in WINDOWS_S[:-1])])
        most = max(most, self._trend(long, ahead_s))
        if long.prefill_s <= 0:
            return long
        growth = most / long.prefill_s
        return long._replace(calls=long.calls * growth, prefill_s=most, answer_tokens=long.answer_tokens * growth)

    def idle_s(self, now_s: float) -> float:
        """Return for how long no call has come, since the first reading at most."""
        return 0.0 if self._called_s is None else now_s - self._called_s

    def _surely(self, window_s: float, until_s: float = 0.0) -> float:
        rates = self._over(window_s, until_s)
        return rates.prefill_s - SURE * math.sqrt(rates.calls * rates.call_squares_s2 / window_s)

    def _trend(self, long: Rates, ahead_s: float) -> float:
        """Return the rate ahead if it goes on to grow as it surely did from the window before the last to the last."""
        window_s = WINDOWS_S[1]
        before = self._over(window_s, window_s)
        if before.calls <= 0:
            return 0.0
        chance = SURE * math.sqrt(before.calls * before.call_squares_s2 / window_s)
        last = self._over(window_s).prefill_s
        growth = max(self._surely(window_s) - before.prefill_s - chance, 0.0) / window_s
        return min(last + growth * ahead_s, 2 * last) if growth > 0 else 0.0

    def _over(self, window_s: float, until_s: float = 0.0) -> Rates:
        """Return plain rates over the window that ended ``until_s`` ago, or over as much of it as is remembered."""
        end_s, end = self._at(self._times_s[-1] - until_s)
        start_s, start = self._at(end_s - window_s)
        passed_s = end_s - start_s
        if passed_s <= 0:
            return Rates()
        calls, tokens, prefill_s, squares, answers = (new - old for new, old in zip(end, start, strict=True))
        each = max(calls, 1.0)
        return Rates(
            calls / passed_s, prefill_s / passed_s, answers / passed_s, prefill_s / each, squares / each, tokens / each
        )

    def _at(self, time_s: float) -> tuple[float, Counts]:
        """Return the last sample that is not later, or the first."""
        at = max(bisect.bisect_right(self._times_s, time_s) - 1, 0)
        return self._times_s[at], self._history[at]


def _more(before: Demand, now: Demand) -> Counts:
    return Counts(
        *(
            positive(getattr(now, name)) - positive(getattr(before, name))
            if positive(getattr(now, name)) > positive(getattr(before, name))
            else 0.0
            for name in Counts._fields
        )
    )


def positive(value: float) -> float:
    """Return a number that came from another process, 0 in the place of one that makes no sense."""
    return value if 0 < value < 1e15 else 0.0
