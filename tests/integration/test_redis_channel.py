"""Many calls on one connection, with a real server: who gets which reply, and what becomes of late ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError
from support.redis_deployments import Server, Wire

from aloraserve.redis.backoff import MOST_S
from aloraserve.redis.channel import RedisChannel
from aloraserve.redis.connect import Connector
from aloraserve.redis.scripts import Script, ScriptCall
from aloraserve.redis.url import read_url

ECHO = Script("return {KEYS[1], ARGV[1]}")
FAIL = Script("return redis.error_reply('ERR refused ' .. ARGV[1])")
TIMEOUT_S = 0.4


def echo(text: str) -> ScriptCall:
    return ScriptCall(ECHO, ("k",), (text,))


def echoed(text: str) -> list[bytes]:
    return [b"k", text.encode()]


def channel_to(url: str, max_calls: int = 32, timeout_s: float = TIMEOUT_S) -> RedisChannel:
    return RedisChannel(Connector(read_url(url), timeout_s), timeout_s=timeout_s, max_calls=max_calls)


@pytest.fixture
async def wire(redis_server: Any) -> AsyncIterator[Wire]:
    async with Wire(redis_server.url.removeprefix("unix://")) as opened:
        yield opened


@pytest.fixture
async def channel(wire: Wire) -> AsyncIterator[RedisChannel]:
    opened = channel_to(wire.url)
    yield opened
    await opened.close()


async def test_each_call_gets_its_own_reply_over_one_connection(wire: Wire, channel: RedisChannel) -> None:
    runs = [[echo(f"{number}.{part}") for part in range(1 + number % 3)] for number in range(200)]
    found = await asyncio.gather(*(channel.run(one) for one in runs))
    assert found == [[echoed(str(run.arguments[0])) for run in one] for one in runs]
    assert wire.connections == 1


async def test_who_gave_up_takes_nobody_elses_reply(wire: Wire, channel: RedisChannel) -> None:
    await channel.run([echo("first")])
    wire.cut()
    calls = [asyncio.create_task(channel.run([echo(str(number)), echo("more")])) for number in range(12)]
    await asyncio.sleep(0.02)
    for call in calls[::2]:
        call.cancel()
    wire.mend()
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert found[1::2] == [[echoed(str(number)), echoed("more")] for number in range(1, 12, 2)]
    assert all(isinstance(one, asyncio.CancelledError) for one in found[::2])
    assert wire.connections == 1


async def test_an_error_is_its_callers_alone(wire: Wire, channel: RedisChannel) -> None:
    refused, partly, served = await asyncio.gather(
        channel.run([ScriptCall(FAIL, ("k",), ("once",))]),
        channel.run([echo("a"), ScriptCall(FAIL, ("k",), ("twice",)), echo("b")]),
        channel.run([echo("c")]),
        return_exceptions=True,
    )
    assert isinstance(refused, ResponseError)
    assert str(refused).endswith("refused once")
    assert isinstance(partly, ResponseError)
    assert str(partly).endswith("refused twice")
    assert served == [echoed("c")]
    assert wire.connections == 1


async def test_a_late_reply_costs_its_caller_only(redis_server: Any) -> None:
    channel = channel_to(redis_server.url, timeout_s=2.0)
    await channel.run([echo("first")])
    redis_server.pause()
    try:
        early = asyncio.create_task(channel.run([echo("early")]))
        await asyncio.wait({early}, timeout=1.5)
        late = asyncio.create_task(channel.run([echo("late")]))
        with pytest.raises(TimeoutError):
            await early
    finally:
        redis_server.resume()
    assert await late == [echoed("late")]
    assert await channel.run([echo("next")]) == [echoed("next")]
    await channel.close()


async def test_a_line_without_a_word_is_given_up(wire: Wire, channel: RedisChannel) -> None:
    await channel.run([echo("first")])
    wire.cut()
    hurried = asyncio.create_task(channel.run([echo("hurried")]))
    await asyncio.sleep(0.02)
    hurried.cancel()
    loop = asyncio.get_running_loop()
    started = loop.time()
    # Nobody waits for the one reply that is due, and the others' time is not over when the line is.
    while wire.connections == 1:
        with pytest.raises((TimeoutError, RedisError)):
            await channel.run([echo("again")])
        assert loop.time() - started < 10
    assert loop.time() - started > TIMEOUT_S
    wire.mend()
    while True:
        # A line that was being opened meanwhile may have no time left.
        with suppress(TimeoutError):
            assert await channel.run([echo("next")]) == [echoed("next")]
            break
        assert loop.time() - started < 10


async def test_what_waits_is_bounded(redis_server: Any) -> None:
    channel = channel_to(redis_server.url, max_calls=2)
    await channel.run([echo("first")])
    redis_server.pause()
    try:
        calls = [asyncio.create_task(channel.run([echo(str(number))])) for number in range(6)]
        found = await asyncio.gather(*calls, return_exceptions=True)
    finally:
        redis_server.resume()
    assert [type(one) for one in found] == [TimeoutError] * 6
    async with Redis.from_url(redis_server.url) as client:
        before = (await client.info("commandstats"))["cmdstat_evalsha"]["calls"]
        assert before == 3, "the first call, and the two that might be under way"
    # The two that are abandoned hold their places until their replies are there.
    assert await asyncio.gather(*(channel.run([echo(str(number))]) for number in range(6))) == [
        [echoed(str(number))] for number in range(6)
    ]
    await channel.close()


async def test_a_closed_connection_ends_its_calls_and_is_opened_again(redis_server: Any) -> None:
    channel = channel_to(redis_server.url, timeout_s=5.0)
    await channel.run([echo("first")])
    loop = asyncio.get_running_loop()
    redis_server.pause()
    calls = [asyncio.create_task(channel.run([echo(str(number))])) for number in range(3)]
    await asyncio.sleep(0.02)
    started = loop.time()
    redis_server.kill()
    for call in calls:
        with pytest.raises((RedisError, OSError)):
            await call
    assert loop.time() - started < 4, "they would have waited for their time to be over"
    with pytest.raises((RedisError, OSError)):
        await channel.run([echo("nobody there")])
    redis_server.start()
    assert await channel.run([echo("next")]) == [echoed("next")]
    await channel.close()


async def test_closing_ends_what_is_under_way_and_what_waits(wire: Wire) -> None:
    channel = channel_to(wire.url, max_calls=2, timeout_s=30.0)
    await channel.run([echo("first")])
    wire.cut()
    calls = [asyncio.create_task(channel.run([echo(str(number))])) for number in range(4)]
    await asyncio.sleep(0.02)
    await channel.close()
    wire.mend()
    for call in calls:
        with pytest.raises(RedisError, match="closed"):
            await call
    assert wire.connections == 1


async def test_closing_ends_an_opening(wire: Wire) -> None:
    channel = channel_to(wire.url, timeout_s=30.0)
    wire.cut()
    call = asyncio.create_task(channel.run([echo("late")]))
    await asyncio.sleep(0.02)
    await channel.close()
    with pytest.raises(RedisError, match="closed"):
        await call


async def test_a_line_that_is_lost_before_it_is_used_costs_no_place(
    redis_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = channel_to(redis_server.url, max_calls=2)
    open_line = channel._open

    async def open_and_lose() -> Any:
        line = await open_line()
        line.connection_lost(None)
        return line

    with monkeypatch.context() as patch:
        patch.setattr(channel, "_open", open_and_lose)
        for _ in range(3):
            with pytest.raises(RedisError, match="closed"):
                await channel.run([echo("lost")])
    assert await channel.run([echo("next")]) == [echoed("next")]
    await channel.close()


async def test_a_server_that_dies_under_many_calls_gives_errors_of_the_contract(redis_server: Any) -> None:
    """Between the end of a stream and the word of it, uvloop's transport refuses what is written to it."""
    loop = asyncio.get_running_loop()
    kinds: set[type] = set()

    async def keep_calling(channel: RedisChannel, until: float) -> None:
        while loop.time() < until:
            await asyncio.sleep(0)
            try:
                await channel.run([echo("again")])
            except (TimeoutError, RedisError, OSError) as error:
                kinds.add(type(error))
            await asyncio.sleep(0)

    for _ in range(5):
        channels = [channel_to(redis_server.url) for _ in range(4)]
        await asyncio.gather(*(channel.run([echo("first")]) for channel in channels))
        until = loop.time() + 0.3
        calls = [asyncio.create_task(keep_calling(channel, until)) for channel in channels for _ in range(8)]
        await asyncio.sleep(0.1)
        redis_server.kill()
        await asyncio.gather(*calls)
        redis_server.start()
        for channel in channels:
            await channel.close()
    assert kinds


async def test_a_server_that_is_away_is_not_stormed(tmp_path: Path) -> None:
    """Many callers that never rest make few attempts to connect, and reach the server soon after it is there."""
    loop = asyncio.get_running_loop()
    server = Server(tmp_path)
    async with Wire(server.port) as wire:
        channel = channel_to(wire.url, timeout_s=0.1)
        found: list[list[Any]] = []

        async def keep_calling() -> None:
            while not found:
                with suppress(TimeoutError, RedisError, OSError):
                    found.append(await channel.run([echo("back")]))
                await asyncio.sleep(0)

        callers = [asyncio.create_task(keep_calling()) for _ in range(8)]
        await asyncio.sleep(1.5)
        # 40 ms at most after the first failure, 80 after the second: about seven are expected.
        assert 2 <= wire.connections <= 25
        await asyncio.to_thread(server.start)
        started = loop.time()
        await asyncio.gather(*callers)
        assert loop.time() - started < 2 * MOST_S
        await channel.close()
    server.kill()


async def test_a_transport_that_is_closing_takes_nothing(redis_server: Any) -> None:
    channel = channel_to(redis_server.url)
    await channel.run([echo("first")])
    line = channel._line
    assert line is not None
    line._transport.abort()
    # The loop has not reported it yet.
    assert not line._is_ended
    assert await channel.run([echo("next")]) == [echoed("next")]
    await channel.close()


async def test_calls_with_no_time_left_cost_no_place(redis_server: Any) -> None:
    channel = channel_to(redis_server.url, max_calls=3, timeout_s=2.0)
    await channel.run([echo("first")])
    loop = asyncio.get_running_loop()
    command = ("EVALSHA", ECHO.digest, 1, "k", "hurried")
    for left_s in (0.0004, 0.0, -0.1):
        hurried = [channel.exchange([command], loop.time() + left_s) for _ in range(3)]
        found = await asyncio.gather(*hurried, return_exceptions=True)
        assert all(one == [echoed("hurried")] or isinstance(one, TimeoutError) for one in found)
    assert await channel.run([echo("next")]) == [echoed("next")]
    before = await _scripts_run(redis_server.url)
    redis_server.pause()
    try:
        calls = [asyncio.create_task(channel.run([echo(str(number))])) for number in range(5)]
        await asyncio.wait(calls, timeout=0.5)
    finally:
        redis_server.resume()
    assert [call.done() for call in calls] == [False] * 5
    for call in calls[3:]:
        call.cancel()
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert found[:3] == [[echoed(str(number))] for number in range(3)]
    assert await _scripts_run(redis_server.url) == before + 3, "three may be under way, as before"
    await channel.close()


async def _scripts_run(url: str) -> int:
    async with Redis.from_url(url) as client:
        return int((await client.info("commandstats"))["cmdstat_evalsha"]["calls"])


@pytest.mark.parametrize("code", ["READONLY", "LOADING", "MASTERDOWN", "NOAUTH"])
async def test_a_server_that_does_not_serve_is_left(wire: Wire, channel: RedisChannel, code: str) -> None:
    refused = Script(f"return redis.error_reply('{code} not now')")
    with pytest.raises(RedisError, match="not now"):
        await channel.run([ScriptCall(refused, ("k",), ())])
    assert await channel.run([echo("next")]) == [echoed("next")]
    assert wire.connections == 2
