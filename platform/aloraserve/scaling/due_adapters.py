"""Which adapters a new replica's first calls will want: those that the fleet's other replicas use now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from aloraserve.directory.base import ReplicaState


def due_adapters(states: Iterable[ReplicaState]) -> list[str]:
    """Return keys of adapter versions, those that most replicas have calls for first, then those in most slots.

    Args:
        states: of the other replicas.
    """
    called, slotted = Counter[str](), Counter[str]()
    for state in states:
        called.update(state.active_adapters)
        slotted.update(state.slotted)
    return sorted(called.keys() | slotted.keys(), key=lambda key: (-called[key], -slotted[key], key))
