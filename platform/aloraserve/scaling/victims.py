"""Who leaves when a fleet shrinks: the replica whose holdings are worth least to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from aloraserve.directory.base import ReplicaState
from aloraserve.scaling.arrivals import positive

ADAPTER_MEMORY_S = 300.0
"""Loading an adapter again costs its load once; what the cache saves is a rate. That long is a load spread over."""


class Worth(NamedTuple):
    """What the fleet would lose with a replica, compared part by part.

    Args:
        saved_s: seconds of prefill per second that its cache saves and nobody else's would, with the loads of adapters
            that only it has.
        requests: that it runs or that wait for it: they are to end before it goes.
        replica: its id, so that equal ones have an order.
    """

    saved_s: float
    requests: int
    replica: str


def worths(states: Sequence[ReplicaState]) -> list[Worth]:
    """Return the worth of each replica that is not leaving, the least first."""
    staying = [state for state in states if not state.is_leaving]
    having = Counter(adapter for state in staying for adapter in set(state.resident))
    return sorted(_worth(state, having) for state in staying)


def victims(states: Sequence[ReplicaState], count: int) -> tuple[str, ...]:
    """Return the ids of the ``count`` replicas that are worth least, in that order.

    Args:
        states: of all live replicas.
        count: how many leave; none if it is not above 0.
    """
    return tuple(worth.replica for worth in worths(states)[: max(count, 0)])


def _worth(state: ReplicaState, having: Counter[str]) -> Worth:
    saved_s = positive(state.saved_s)
    alone = sum(having[adapter] == 1 for adapter in set(state.resident))
    saved_s -= min(positive(state.saved_elsewhere_s), saved_s)
    saved_s += alone * positive(state.load.adapter_load_s) / ADAPTER_MEMORY_S
    return Worth(saved_s, state.load.running + state.load.waiting, state.replica)
