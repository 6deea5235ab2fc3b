from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from aloraserve.blocks import KeySpace
from aloraserve.directory.base import ReplicaState
from aloraserve.directory.guarded import LOG_EVERY_S, GuardedDirectory, guarded
from aloraserve.directory.memory import MemoryDirectory
from aloraserve.errors import DirectoryUnavailableError, KeySpaceMismatchError


class Broken(MemoryDirectory):
    """Raises what it is given."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    async def states(self) -> list[ReplicaState]:
        raise self.error


@pytest.mark.parametrize("error", [ValueError("x"), AttributeError("x"), KeyError("x"), TimeoutError(), OSError("x")])
async def test_whatever_a_backend_raises_is_unavailability(error: Exception) -> None:
    with pytest.raises(DirectoryUnavailableError, match=type(error).__name__) as caught:
        await GuardedDirectory(Broken(error)).states()
    assert caught.value.__cause__ is error


async def test_what_says_so_already_and_a_cancellation_go_through() -> None:
    unavailable = DirectoryUnavailableError("gone")
    with pytest.raises(DirectoryUnavailableError) as caught:
        await GuardedDirectory(Broken(unavailable)).states()
    assert caught.value is unavailable
    with pytest.raises(asyncio.CancelledError):
        await GuardedDirectory(Broken(asyncio.CancelledError())).states()


async def test_it_is_logged_with_its_type_once_per_minute() -> None:
    now = [5.0]
    directory = GuardedDirectory(Broken(KeyError("x")), clock=lambda: now[0])
    with capture_logs() as logged:
        for _ in range(10):
            with pytest.raises(DirectoryUnavailableError):
                await directory.states()
        now[0] += LOG_EVERY_S
        with pytest.raises(DirectoryUnavailableError):
            await directory.states()
    assert [(entry["call"], entry["cause"], entry["times"]) for entry in logged] == [
        ("states", "KeyError", 1),
        ("states", "KeyError", 10),
    ]


async def test_a_guarded_directory_is_not_guarded_again() -> None:
    directory = guarded(MemoryDirectory())
    assert guarded(directory) is directory
    assert await directory.states() == []


async def test_a_key_space_that_differs_is_reported_as_that() -> None:
    directory = MemoryDirectory()
    await directory.join(KeySpace("m", "t", 16))
    with pytest.raises(KeySpaceMismatchError):
        await guarded(directory).join(KeySpace("n", "t", 16))
