"""Failure on demand: only known faults, and a directory that is cut off and found again."""

from __future__ import annotations

import pytest

from aloraserve.blocks import KeySpace
from aloraserve.directory.base import ReplicaState
from aloraserve.directory.memory import MemoryDirectory
from aloraserve.errors import DirectoryUnavailableError
from aloraserve_services.engine.simulated.faults import FAULTS, SeverableDirectory, check_fault


@pytest.mark.parametrize("kind", FAULTS)
def test_every_fault_is_accepted_by_its_name(kind: str) -> None:
    assert check_fault(kind) == kind


def test_another_one_is_refused_with_all_that_there_are() -> None:
    with pytest.raises(
        ValueError, match=r"fault is 'explode'; one of die, hang, poison, partition, heal, hang-events, .*"
    ):
        check_fault("explode")


async def test_a_severed_directory_fails_as_one_that_is_gone_and_nothing_reaches_it() -> None:
    directory = SeverableDirectory(MemoryDirectory())
    await directory.publish(ReplicaState("a", "1"))
    directory.is_severed = True
    with pytest.raises(DirectoryUnavailableError):
        await directory.publish(ReplicaState("b", "1"))
    with pytest.raises(DirectoryUnavailableError):
        await directory.join(KeySpace("m", "t", 16))
    directory.is_severed = False
    assert [state.replica for state in await directory.states()] == ["a"]
