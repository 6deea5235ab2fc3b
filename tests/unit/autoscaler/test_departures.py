from __future__ import annotations

import pytest

from aloraserve.directory.base import ReplicaState
from aloraserve.directory.memory import MemoryDirectory
from aloraserve.errors import DirectoryUnavailableError
from aloraserve_services.autoscaler.departures import Departures

CELLS = {"a": 0, "b": 0, "c": 0}


@pytest.fixture
async def directory() -> MemoryDirectory:
    opened = MemoryDirectory()
    for replica in CELLS:
        await opened.publish(ReplicaState(replica, "1"), ttl_s=60)
    return opened


async def marked(directory: MemoryDirectory) -> list[str]:
    return [state.replica for state in await directory.states() if state.is_leaving]


async def test_victims_are_marked_until_they_are_gone(directory: MemoryDirectory) -> None:
    departures = Departures([directory])
    await departures.follow(("b",), 2, {"a", "b", "c"}, CELLS)
    assert (departures.chosen, await marked(directory)) == (("b",), ["b"])
    await departures.follow((), 2, {"a", "c"}, CELLS)
    assert departures.chosen == ("b",), "Serve has stopped it, and it drains"
    await departures.follow((), 2, {"a", "c"}, {"a": 0, "c": 0})
    assert departures.chosen == ()


async def test_one_that_is_needed_again_is_taken_back_before_serve_stops_it(directory: MemoryDirectory) -> None:
    departures = Departures([directory])
    await departures.follow(("b", "c"), 1, {"a", "b", "c"}, CELLS)
    assert await marked(directory) == ["b", "c"]
    await departures.follow((), 2, {"a", "b", "c"}, CELLS)
    assert (departures.chosen, await marked(directory)) == (("b",), ["b"]), "the last to leave comes back first"
    await departures.follow((), 3, {"a", "b", "c"}, CELLS)
    assert (departures.chosen, await marked(directory)) == ((), [])


async def test_no_more_leave_than_the_target_says(directory: MemoryDirectory) -> None:
    departures = Departures([directory])
    await departures.follow(("a", "b", "c"), 2, {"a", "b", "c"}, CELLS)
    assert await marked(directory) == ["a"]


async def test_a_mark_that_cannot_be_written_is_counted_and_tried_again() -> None:
    class Gone(MemoryDirectory):
        is_gone = True

        async def mark_leaving(self, replica: str, **options: float) -> None:
            if self.is_gone:
                raise DirectoryUnavailableError("gone")
            await super().mark_leaving(replica, **options)

    failures: list[int] = []
    directory = Gone()
    await directory.publish(ReplicaState("a", "1"), ttl_s=60)
    departures = Departures([directory], lambda: failures.append(1))
    await departures.follow(("a",), 0, {"a"}, {"a": 0})
    assert (departures.chosen, failures) == (("a",), [1])
    directory.is_gone = False
    await departures.follow((), 0, {"a"}, {"a": 0})
    assert await marked(directory) == ["a"]


async def test_a_replica_is_marked_in_its_own_cell(directory: MemoryDirectory) -> None:
    other = MemoryDirectory()
    await other.publish(ReplicaState("d", "1"), ttl_s=60)
    await Departures([directory, other]).follow(("d",), 3, {*CELLS, "d"}, {**CELLS, "d": 1})
    assert (await marked(directory), await marked(other)) == ([], ["d"])


async def test_one_that_serve_stops_by_itself_is_marked_while_it_drains(directory: MemoryDirectory) -> None:
    departures = Departures([directory])
    await departures.follow((), 3, {"a", "b", "c"}, CELLS)
    await departures.follow((), 2, {"a", "b"}, CELLS)
    assert (departures.chosen, await marked(directory)) == (("c",), ["c"])
    await departures.follow((), 2, {"a", "b", "c"}, CELLS)
    assert await marked(directory) == ["c"], "there is one too many"
    await departures.follow((), 3, {"a", "b", "c"}, CELLS)
    assert await marked(directory) == [], "it runs again, and is needed"


async def test_those_that_drain_are_marked_again_after_an_outage(directory: MemoryDirectory) -> None:
    departures = Departures([directory], chosen=("b",))
    await departures.follow((), 2, {"a", "c"}, {}, is_known=False)
    await departures.follow((), 2, {"a", "c"}, CELLS)
    assert (departures.chosen, await marked(directory)) == (("b",), ["b"])
