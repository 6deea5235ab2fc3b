"""Which of a leaving replica's prefixes are computed on another one before it goes, and on which.

A prefix that nobody else holds is computed again by the first call that needs it, which waits for it. To compute it
before costs the same time of an engine, and whoever has a call there waits a little longer. It is worth that where the
call is likely to come, and the engine has room::

    gain = misses * prefill seconds
    cost = (waiting calls there + (1 - misses) * running answers there) * prefill seconds

``misses`` is the probability that the prefix is asked for within a half-life: calls go where a prefix is, so that of
all calls to come one alone would miss. Where it comes, the running answers there are slowed down in any case.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from aloraserve.directory.base import Candidate

HELD = 0.9
"""Of a prefix, what another replica has to hold so that nothing is done for it."""


def misses(heat: float) -> float:
    """Return how likely a prefix is asked for within the next half-life.

    Args:
        heat: of the prefix: at a steady rate, its hits per half-life divided by ln 2.
    """
    return 1.0 - math.exp(-heat * math.log(2.0))


def new_home(
    heat: float, blocks: int, candidates: Iterable[Candidate], leaving: str, given: Mapping[str, int] | None = None
) -> str | None:
    """Return on which replica a prefix is to be computed; None if that is not worth it, or another one has it.

    Args:
        heat: of the prefix.
        blocks: that it has.
        candidates: as a lookup of its keys finds them.
        leaving: id of the replica that goes.
        given: by replica, how many prefixes it is to compute already: it counts as having so many more calls.
    """
    given = given or {}
    others = [
        candidate for candidate in candidates if candidate.state.replica != leaving and not candidate.state.is_leaving
    ]
    if not others or any(candidate.claimed_blocks >= HELD * blocks for candidate in others):
        return None
    best = min(
        others,
        key=lambda other: (
            other.state.load.waiting,
            other.state.load.running + given.get(other.state.replica, 0),
            -other.held_blocks,
        ),
    )
    likely, load = misses(heat), best.state.load
    return best.state.replica if likely > load.waiting + (1.0 - likely) * load.running else None
