"""How long an engine prefills before it comes to a call, from a record of bounded size.

An engine that begins calls by their numbers (:mod:`aloraserve.routing.scheduling`) does not compute its whole queue
before a call. So a replica publishes its waiting seconds by number: a histogram over the numbers less that of a call
without prefill which would come now. A call that takes ``p`` seconds waits for what lies below ``p``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

EDGES_S = (0.0, *(2.0**power for power in range(-7, 9)))
"""Upper edges of the buckets, 8 ms to 256 s; the first has what nothing overtakes, the last one has no upper edge."""
DIGITS = 4
"""Of the published seconds: a tenth of a millisecond."""


def queue_profile(waiting: Iterable[tuple[float, float]]) -> tuple[float, ...]:
    """Return the seconds of prefill in each bucket, without the empty ones at the end.

    Args:
        waiting: for each call without a first token its number less ``ageing * now``, and the seconds that its prefill
            still takes. A call that has begun is not overtaken: its number counts as 0.
    """
    buckets = [0.0] * (len(EDGES_S) + 1)
    used = 0
    for number_s, prefill_s in waiting:
        bucket = bisect_left(EDGES_S, number_s)
        buckets[bucket] += prefill_s
        used = max(used, bucket + 1)
    return tuple(round(seconds, DIGITS) for seconds in buckets[:used])


def seconds_before(profile: Sequence[float], prefill_s: float) -> float:
    """Return the seconds of a profile that are computed before a call which takes ``prefill_s``.

    Those of its own bucket count whole. Calls as long as it are among them, and came before it; calls that are up to
    twice as long count too, which is the better mistake: a burst of equal calls must not look free.
    """
    return sum(profile[: bisect_left(EDGES_S, prefill_s) + 1])
