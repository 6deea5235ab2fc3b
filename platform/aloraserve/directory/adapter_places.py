"""Where adapter versions are loaded, read from the replicas' states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal, NamedTuple

from aloraserve.directory.base import ReplicaState


class AdapterPlace(NamedTuple):
    """One replica that has a version.

    Args:
        replica: its label.
        level: in a slot, where it can run in the next step, or in the host's memory alone.
        pinned: whether it stays there.
    """

    replica: str
    level: Literal["slot", "host"]
    pinned: bool


def adapter_places(states: Iterable[ReplicaState]) -> dict[str, list[AdapterPlace]]:
    """Return where versions are loaded, sorted by replica, by the versions' keys; one that is nowhere is missing.

    Args:
        states: of live replicas, as :meth:`~aloraserve.directory.base.Directory.states` gives them.
    """
    found: dict[str, list[AdapterPlace]] = {}
    for state in sorted(states, key=lambda state: state.label):
        slotted, pinned = set(state.slotted), set(state.pinned)
        for key in state.resident:
            place = AdapterPlace(state.label, "slot" if key in slotted else "host", key in pinned)
            found.setdefault(key, []).append(place)
    return found


def named(state: ReplicaState, names: Mapping[str, str]) -> ReplicaState:
    """Return a state with the adapters' names in place of the keys, without versions that have no name here.

    Args:
        state: of a replica.
        names: of the adapters that whoever asks may see, by their versions' keys.
    """

    def of(keys: Iterable[str]) -> tuple[str, ...]:
        return tuple(sorted({names[key] for key in keys if key in names}))

    return replace(
        state,
        resident=of(state.resident),
        active_adapters=of(state.active_adapters),
        slotted=of(state.slotted),
        pinned=of(state.pinned),
    )
