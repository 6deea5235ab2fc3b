"""Simulated time: its order, and asyncio in it."""

from __future__ import annotations

import asyncio

import pytest

from aloraserve.simulation.simulated_loop import SimulatedLoop


def test_callbacks_come_in_the_order_of_their_times_and_equal_times_as_they_were_added() -> None:
    loop, seen = SimulatedLoop(), []
    for name, time_s in (("c", 2.0), ("a", 1.0), ("d", 2.0), ("b", 1.0)):
        loop.at(time_s, lambda name=name: seen.append((name, loop.now_s)))
    loop.at(1.0, lambda: loop.at(0.5, lambda: seen.append(("past", loop.now_s))))
    loop.run()
    assert seen == [("a", 1.0), ("b", 1.0), ("past", 1.0), ("c", 2.0), ("d", 2.0)]


def test_asyncio_waits_in_simulated_time() -> None:
    loop, seen = SimulatedLoop(), []

    async def late() -> None:
        await asyncio.sleep(3600)
        seen.append(loop.now_s)

    async def impatient() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.25):
                await asyncio.shield(asyncio.ensure_future(late()))
        seen.append(loop.now_s)

    async def in_time() -> None:
        async with asyncio.timeout(5000):
            await asyncio.sleep(1)
        seen.append(loop.now_s)

    loop.spawn(impatient())
    loop.spawn(in_time())
    loop.run()
    assert seen == [0.25, 1.0, 3600.0]
    assert loop.now_s == 3600.0, "a timer that was cancelled moves no time"


def test_a_tasks_error_ends_the_run() -> None:
    loop = SimulatedLoop()

    async def fail() -> None:
        await asyncio.sleep(1)
        raise KeyError("unforeseen")

    loop.spawn(fail())
    loop.at(2.0, lambda: pytest.fail("the run went on"))
    with pytest.raises(KeyError, match="unforeseen"):
        loop.run()


def test_a_callbacks_error_ends_the_run() -> None:
    loop = SimulatedLoop()
    loop.call_later(1.0, lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        loop.run()


def test_a_stopped_loop_goes_on_where_it_was_and_a_closed_one_ends_its_tasks() -> None:
    loop, seen = SimulatedLoop(), []

    async def tick() -> None:
        try:
            while True:
                await asyncio.sleep(1)
                seen.append(loop.now_s)
        finally:
            seen.append(-1.0)

    loop.spawn(tick())
    loop.at(2.5, loop.stop)
    loop.run()
    assert seen == [1.0, 2.0]
    loop.at(3.5, loop.stop)
    loop.run()
    loop.close()
    assert seen == [1.0, 2.0, 3.0, -1.0]


async def test_it_runs_inside_another_loop() -> None:
    outer, loop = asyncio.get_running_loop(), SimulatedLoop()
    task = loop.spawn(asyncio.sleep(10, "slept"))
    loop.run()
    assert (task.result(), loop.now_s) == ("slept", 10.0)
    assert asyncio.get_running_loop() is outer
