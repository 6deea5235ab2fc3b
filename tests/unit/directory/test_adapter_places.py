"""Where adapters are, as their replicas' states say."""

from __future__ import annotations

from aloraserve.directory.adapter_places import AdapterPlace, adapter_places, named
from aloraserve.directory.base import ReplicaState

FIRST = ReplicaState(
    "b", "1", "engine-0", resident=("k1", "k2"), slotted=("k1",), pinned=("k2",), active_adapters=("k1",)
)
SECOND = ReplicaState("a", "1", "engine-1", resident=("k1",))


def test_a_version_is_in_a_slot_or_in_memory_on_each_replica_and_a_cold_one_nowhere() -> None:
    places = adapter_places([SECOND, FIRST])
    assert places == {
        "k1": [AdapterPlace("engine-0", "slot", False), AdapterPlace("engine-1", "host", False)],
        "k2": [AdapterPlace("engine-0", "host", True)],
    }


def test_a_state_shows_names_of_those_who_may_be_seen_alone() -> None:
    """What another tenant keeps private has no name here, and two versions of one adapter have one."""
    shown = named(FIRST, {"k1": "safety"})
    assert (shown.resident, shown.slotted, shown.pinned) == (("safety",), ("safety",), ())
    assert named(FIRST, {"k1": "safety", "k2": "safety"}).resident == ("safety",)
    assert shown.active_adapters == ("safety",)
