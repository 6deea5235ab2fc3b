"""What arrives at a fleet, from the counts of its gateways: rates over windows, and how sure they are."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from aloraserve.scaling.base import MAX_GATEWAYS, Demand

LONG_S = 90.0
"""Over which rates are taken as they are."""
SHORT_S = (10.0, 30.0)
"""Over which they count as far as chance does not explain that they are higher."""
SURE = 1.0
"""Standard deviations that are put down to chance: a replica too early costs less than one too late."""
MOST_GROWTH = 2.0
"""Times what arrives now, as a trend is believed to go on."""
SAMPLE_S = 1.0
MAX_SAMPLES = 256


class Counts(NamedTuple):
    """Sums over all gateways since the first reading, as in :class:`~aloraserve.scaling.base.Demand`."""

    calls: float = 0.0
    uncached_tokens: float = 0.0
    prefill_s: float = 0.0
    prefill_squares_s2: float = 0.0
    answer_tokens: float = 0.0
    answers: float = 0.0
    unestimated: float = 0.0
    ended_tokens: float = 0.0


class Rates(NamedTuple):
    """What arrives.

    Args:
        calls: per second.
        call_prefill_s: mean uncached prefill of a call.
        call_squares_s2: mean of its square.
        call_answer_tokens: mean length of an answer.
        is_known: whether it was seen what calls are like.
    """

    calls: float = 0.0
    call_prefill_s: float = 0.0
    call_squares_s2: float = 0.0
    call_answer_tokens: float = 0.0
    is_known: bool = False


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
                pairs = zip(self._counts, _more(before, demand), strict=True)
                self._counts = Counts(*(total + new for total, new in pairs))
        self._last = {demand.gateway: demand for demand in demands[:MAX_GATEWAYS]}
        if self._called_s is None or self._counts.calls > calls:
            self._called_s = time_s
        if not self._history or time_s - self._times_s[-1] >= SAMPLE_S:
            self._times_s.append(time_s)
            self._history.append(self._counts)
            del self._times_s[:-MAX_SAMPLES], self._history[:-MAX_SAMPLES]

    def rates(self, ahead_s: float) -> Rates:
        """Return what is expected to arrive ``ahead_s`` from now.

        What a call is like is the mean over all that is remembered: its prefill over those with an estimate, its answer
        over those that have ended: of a full fleet's calls most have not even begun. Calls are those of the long
        window, or of a shorter one, or as many as a trend makes of them, as far as those surely exceed it: ``n`` calls
        are known to the root of ``n`` and of how much they come in bunches.
        """
        if len(self._history) < 2:
            return Rates()
        calls = [self._calls(LONG_S), *(self._surely(window_s) for window_s in SHORT_S), self._trend(ahead_s)]
        all_of = self._passed(self._times_s[-1] - self._times_s[0])
        estimated = all_of.calls - all_of.unestimated
        each = max(estimated, 1.0)
        return Rates(
            max(calls),
            all_of.prefill_s / each,
            all_of.prefill_squares_s2 / each,
            _answer_tokens(all_of),
            estimated >= 1 and all_of.answers >= 1,
        )

    @property
    def has_calls(self) -> bool:
        """Whether any call has come since the first reading."""
        return self._counts.calls > 0

    def idle_s(self, now_s: float) -> float:
        """Return for how long no call has come, since the first reading at most."""
        return 0.0 if self._called_s is None else now_s - self._called_s

    def _surely(self, window_s: float) -> float:
        calls = self._calls(window_s)
        return calls - SURE * math.sqrt(calls * self._bunching() / window_s)

    def _trend(self, ahead_s: float) -> float:
        """Return the rate ahead if it goes on to grow as it surely did from the window before the last to the last."""
        window_s = SHORT_S[-1]
        if self._times_s[-1] - self._times_s[0] < 2 * window_s:
            return 0.0
        last, before = self._calls(window_s), self._calls(window_s, window_s)
        chance = SURE * math.sqrt((last + before) * self._bunching() / window_s)
        growth = max(last - before - chance, 0.0) / window_s
        # The middle of the last window is half of it ago.
        return min(last + growth * (ahead_s + window_s / 2), MOST_GROWTH * last) if growth > 0 else 0.0

    def _bunching(self) -> float:
        """Return the variance of the calls of a sample by their mean: 1 where they come one by one, by chance."""
        counts = [counts.calls for counts in self._history[-int(LONG_S) :]]
        new = [later - earlier for earlier, later in itertools.pairwise(counts)]
        mean = sum(new) / max(len(new), 1)
        changes = [(later - earlier) ** 2 / 2 for earlier, later in itertools.pairwise(new)]
        return max(sum(changes) / len(changes) / mean, 1.0) if changes and mean > 0 else 1.0

    def _calls(self, window_s: float, until_s: float = 0.0) -> float:
        """Return calls per second over the window that ended ``until_s`` ago, or as much of it as is remembered."""
        end_s = self._times_s[self._at(self._times_s[-1] - until_s)]
        passed_s = end_s - self._times_s[self._at(end_s - window_s)]
        return self._passed(window_s, until_s).calls / passed_s if passed_s > 0 else 0.0

    def _passed(self, window_s: float, until_s: float = 0.0) -> Counts:
        end = self._at(self._times_s[-1] - until_s)
        start = self._at(self._times_s[end] - window_s)
        return Counts(*(new - old for new, old in zip(self._history[end], self._history[start], strict=True)))

    def _at(self, time_s: float) -> int:
        """Return the number of the last sample that is not later, or the first's."""
        return max(bisect.bisect_right(self._times_s, time_s) - 1, 0)


def _answer_tokens(counts: Counts) -> float:
    """Return the mean length of an answer."""
    if counts.ended_tokens > 0:
        return counts.ended_tokens / max(counts.answers, 1.0)
    # Tokens of answers that have not ended are counted, too: those of all calls at the start.
    calls = max(counts.calls, 1.0)
    return counts.answer_tokens / (max(counts.answers, calls / 2) if counts.answers > 0 else calls)


def _more(before: Demand, now: Demand) -> Counts:
    pairs = ((positive(getattr(before, name)), positive(getattr(now, name))) for name in Counts._fields)
    return Counts(*(max(new - old, 0.0) for old, new in pairs))


def positive(value: float) -> float:
    """Return a number that came from another process, 0 in the place of one that makes no sense."""
    return value if 0 < value < 1e15 else 0.0
