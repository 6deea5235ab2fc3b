"""A view is refreshed once at a time, for all who wait; after failures patiently; and until it is closed."""

from __future__ import annotations

import asyncio

import pytest

from aloraserve.directory import view_refresher
from aloraserve.directory.view_refresher import ViewRefresher
from aloraserve.errors import DirectoryUnavailableError


class Source:
    """What a refresher asks: waits, fails or answers as the test says, on a clock of the test's."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.asked = self.running = 0
        self.error: Exception | None = None
        self.came = asyncio.Event()
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    async def refresh(self) -> None:
        self.asked += 1
        self.came.set()
        self.running += 1
        assert self.running == 1
        try:
            await self.goes_on.wait()
            if self.error:
                raise self.error
        finally:
            self.running -= 1

    def refresher(self) -> ViewRefresher:
        return ViewRefresher(self.refresh, clock=lambda: self.now_s)


async def test_all_who_wait_share_one_refresh() -> None:
    source = Source()
    refresher = source.refresher()
    source.goes_on.clear()
    refresher.use(source.now_s)
    waiting = [asyncio.create_task(refresher.wait(source.now_s)) for _ in range(20)]
    await asyncio.sleep(0)
    source.goes_on.set()
    await asyncio.gather(*waiting)
    assert source.asked == 1
    await refresher.close()


async def test_a_refresh_that_began_before_is_not_enough() -> None:
    source = Source()
    refresher = source.refresher()
    source.goes_on.clear()
    refresher.use(source.now_s)
    await asyncio.sleep(0)
    source.now_s += 1
    waiting = asyncio.create_task(refresher.wait(source.now_s))
    await asyncio.sleep(0)
    source.goes_on.set()
    await waiting
    assert source.asked == 2
    await refresher.close()


async def test_a_fresh_view_is_not_waited_for() -> None:
    source = Source()
    refresher = source.refresher()
    refresher.use(source.now_s)
    await refresher.wait(source.now_s)
    source.goes_on.clear()
    source.now_s += 0.05
    await refresher.wait(source.now_s - 0.1)
    await refresher.close()


@pytest.mark.parametrize("error", [DirectoryUnavailableError("gone, as the test said"), KeyError("a defect")])
async def test_a_failure_is_reported_to_who_waits_and_the_next_one_asks_at_once(error: Exception) -> None:
    source = Source()
    source.error = error
    refresher = source.refresher()
    for _ in range(3):
        refresher.use(source.now_s)
        with pytest.raises(type(error)):
            await refresher.wait(source.now_s)
    source.error = None
    await refresher.wait(source.now_s)
    source.came.clear()
    async with asyncio.timeout(60):
        await source.came.wait()
    await refresher.close()


async def test_who_gives_up_ends_nobody_elses_refresh() -> None:
    source = Source()
    refresher = source.refresher()
    source.goes_on.clear()
    refresher.use(source.now_s)
    hurried = asyncio.create_task(refresher.wait(source.now_s))
    patient = asyncio.create_task(refresher.wait(source.now_s))
    await asyncio.sleep(0)
    hurried.cancel()
    await asyncio.gather(hurried, return_exceptions=True)
    source.goes_on.set()
    await patient
    assert source.asked == 1
    await refresher.close()


def test_it_is_quick_while_used_slow_while_idle_and_backs_off_after_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view_refresher.random, "uniform", lambda low, high: low)
    source_now = [100.0]

    async def refresh() -> None:
        return None

    async def pauses() -> tuple[list[float], float, float]:
        refresher = ViewRefresher(refresh, clock=lambda: source_now[0])
        refresher.use(0.0)
        failed = [refresher._pause_s(failures) for failures in (1, 2, 3, 9, 99)]
        busy = refresher._pause_s(0)
        source_now[0] += view_refresher.IDLE_AFTER_S
        idle = refresher._pause_s(0)
        await refresher.close()
        return failed, busy, idle

    failed, busy, idle = asyncio.run(pauses())
    assert failed == [0.02, 0.04, 0.08, 0.5, 0.5]
    assert (busy, idle) == (view_refresher.BUSY_PAUSE_S, view_refresher.IDLE_PAUSE_S)


async def test_closing_ends_what_is_under_way() -> None:
    source = Source()
    refresher = source.refresher()
    source.goes_on.clear()
    refresher.use(source.now_s)
    await asyncio.sleep(0)
    assert source.running == 1
    await refresher.close()
    assert source.running == 0
