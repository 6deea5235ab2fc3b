"""Tasks that begin again where they fail, and those that do not."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from aloraserve.errors import KeySpaceMismatchError
from aloraserve_services import kept_tasks
from aloraserve_services.kept_tasks import KeptTasks, kept


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_tasks, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(kept_tasks, "MAX_PAUSE_S", 0.004)


async def test_a_task_that_fails_begins_again_until_it_ends() -> None:
    left = [KeyError("a"), TypeError("b"), ValueError("c")]

    async def work(named: str) -> None:
        if left:
            raise left.pop(0)

    await asyncio.wait_for(kept(partial(work, "x")), 10)
    assert left == []


async def test_another_key_space_ends_it() -> None:
    async def work() -> None:
        raise KeySpaceMismatchError("another fleet's")

    tasks = KeptTasks()
    tasks.keep(work)
    await asyncio.sleep(0.01)
    with pytest.raises(KeySpaceMismatchError):
        tasks.check()


async def test_what_is_needed_does_not_begin_again_and_what_is_kept_does() -> None:
    begun = 0

    async def odd() -> None:
        nonlocal begun
        begun += 1
        raise KeyError("odd")

    tasks = KeptTasks()
    tasks.keep(odd)
    while begun < 3:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    tasks.check()
    tasks.need(odd)
    await asyncio.sleep(0.01)
    with pytest.raises(KeyError):
        tasks.check()
    tasks.cancel()
    await asyncio.sleep(0.01)
    ended = begun
    await asyncio.sleep(0.05)
    assert begun == ended


async def test_cancelling_is_no_failure() -> None:
    task = asyncio.create_task(kept(lambda: asyncio.sleep(60)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
