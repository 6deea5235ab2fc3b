"""What goes wrong between a gateway and a replica: one call fails at most, clearly, and nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import struct
from dataclasses import replace
from pathlib import Path

import msgspec
import psutil
import pytest
from support.channel_fleet import ChannelFleet, answered, channel_fleet, until
from support.channel_stranger import Stranger, frame
from support.pool_replica import call_of

from aloraserve.routing.receipts import Outcome
from aloraserve_services.channel import frames, served_gateway
from aloraserve_services.channel.connection import ChannelLostError, connect
from aloraserve_services.channel.credentials import new_nonce
from aloraserve_services.channel.endpoint import ChannelVersionError, Endpoint
from aloraserve_services.channel.messages import VERSION, Challenge, Ping, Refused, encode
from aloraserve_services.channel.server import MAX_STRANGERS
from aloraserve_services.gateway import replica_links

CONNECTS = 10_000


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        struct.pack("<I", 0xFFFFFFFF),
        frame(b"\xc1"),
        frame(encode(Ping()), b"\x91\x63"),
        frame(encode(Challenge(VERSION, b""))),
        struct.pack("<I", 3) + b"\x93\x02",
    ],
    ids=["http", "huge", "garbage", "no-such-message", "out-of-place", "cut-off"],
)
@pytest.mark.parametrize("is_known", [True, False])
async def test_garbage_closes_its_own_connection(fleet: ChannelFleet, data: bytes, is_known: bool) -> None:
    async with fleet.gateway() as (pool, _):
        stranger = await Stranger.come(fleet.endpoints["a"])
        await (stranger.greet(fleet.endpoints["a"].secret) if is_known else stranger.messages())
        stranger.writer.write(data)
        if data.endswith(b"\x93\x02"):
            stranger.writer.write_eof()
        assert await stranger.is_closed()
        assert await answered(pool)
        await until(lambda: fleet.servers["a"].connections == 1, "only the gateway is left")


async def test_who_lacks_the_secret_is_refused(fleet: ChannelFleet) -> None:
    endpoint = fleet.endpoints["a"]
    with pytest.raises(ChannelLostError, match="does not have this replica's secret"):
        await connect(replace(endpoint, secret=b"x" * 32), lambda: None)
    assert fleet.servers["a"].running == 0


async def test_a_replica_that_lacks_the_secret_is_sent_nothing(tmp_path: Path) -> None:
    """Whoever put a socket in the replica's place sees no prompt."""
    seen: list[bytes] = []

    async def pose(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frame(encode(Challenge(VERSION, new_nonce()))))
        seen.append(await reader.read(4096))
        writer.write(frame(msgspec.msgpack.encode([3, b"y" * 32, 9])))
        with contextlib.suppress(ConnectionError):
            seen.append(await reader.read())
        writer.close()

    path = str(tmp_path / "s")
    async with await asyncio.start_unix_server(pose, path):
        with pytest.raises(ChannelLostError, match="does not have its secret"):
            await connect(Endpoint("a", b"x" * 32, path), lambda: None)
    await until(lambda: len(seen) == 2, "the impostor has read all")
    assert seen[1] == b""


async def test_another_version_is_refused_by_both_ends(fleet: ChannelFleet) -> None:
    endpoint = fleet.endpoints["a"]
    stranger = await Stranger.come(endpoint)
    (refused,) = await stranger.greet(endpoint.secret, VERSION + 1)
    assert refused == Refused(f"the gateway speaks version {VERSION + 1}; this replica speaks {VERSION}")
    assert await stranger.is_closed()
    with pytest.raises(ChannelVersionError, match=f"speaks version {VERSION + 1}; this gateway speaks {VERSION}"):
        Endpoint.from_dict(endpoint.as_dict() | {"version": VERSION + 1})
    assert Endpoint.from_dict(endpoint.as_dict() | {"later": 1}) == endpoint


@pytest.fixture
def quick_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "PING_S", 0.05)
    monkeypatch.setattr(frames, "SILENCE_S", 0.3)


async def test_a_replica_that_stops_reading_is_lost(
    tmp_path: Path, quick_pings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with channel_fleet(tmp_path, "a") as fleet, fleet.gateway() as (pool, links):
        async with pool.reserve(["a"]) as place:
            replies = place.send(call_of("hold-1"))
            await replies.__anext__()
            (gateway,) = fleet.servers["a"]._gateways
            gateway._transport.pause_reading()
            monkeypatch.setattr(gateway, "_tick", lambda: None)
            with pytest.raises(ChannelLostError, match="did not answer") as raised:
                await replies.__anext__()
            assert pool.outcome_of(raised.value) is Outcome.LOST
        await until(lambda: "a" in links.open, "it is reached again")
        assert await answered(pool)


async def test_a_gateway_that_is_silent_loses_its_calls(fleet: ChannelFleet, quick_pings: None) -> None:
    stranger = await Stranger.come(fleet.endpoints["a"])
    await stranger.greet(fleet.endpoints["a"].secret)
    assert await stranger.is_closed()
    await until(lambda: fleet.servers["a"].connections == 0, "nothing is kept for it")


async def test_who_proves_nothing_is_closed_in_time(fleet: ChannelFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_gateway, "GREETING_S", 0.1)
    strangers = [await Stranger.come(fleet.endpoints["a"]) for _ in range(3)]
    assert all(await asyncio.gather(*(stranger.is_closed() for stranger in strangers)))
    await until(lambda: fleet.servers["a"].connections == 0, "nothing is kept for them")


async def test_only_so_many_may_have_proved_nothing(fleet: ChannelFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_gateway, "GREETING_S", 60.0)
    async with fleet.gateway() as (pool, _):
        strangers = [await Stranger.come(fleet.endpoints["a"]) for _ in range(MAX_STRANGERS + 8)]
        await until(lambda: fleet.servers["a"].connections == MAX_STRANGERS + 1, "the last ones are closed")
        assert await answered(pool)
        for stranger in strangers:
            stranger.writer.close()
        await until(lambda: fleet.servers["a"].connections == 1, "only the gateway is left")


async def test_a_replica_that_does_not_say_where_it_is_is_asked_again(
    fleet: ChannelFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    say = fleet.endpoint_of

    async def hang_once(name: str) -> Endpoint:
        nonlocal asked
        asked += 1
        if asked == 1:
            await asyncio.Event().wait()
        return await say(name)

    monkeypatch.setattr(fleet, "endpoint_of", hang_once)
    monkeypatch.setattr(replica_links, "ASK_TIMEOUT_S", 0.05)
    async with fleet.gateway() as (pool, links):
        assert links.open
        assert await answered(pool)
    assert asked > 1


async def test_ten_thousand_connects_leave_nothing(fleet: ChannelFleet) -> None:
    endpoint = fleet.endpoints["a"]
    files = psutil.Process().num_fds()
    async with fleet.gateway() as (pool, _):
        for number in range(CONNECTS):
            _, writer = await asyncio.open_unix_connection(endpoint.socket)
            writer.transport.abort()
            if number % 1000 == 0:
                assert await answered(pool, f"plain-{number}")
        await until(lambda: fleet.servers["a"].connections == 1, "only the gateway is left")
        gc.collect()
        await until(lambda: psutil.Process().num_fds() <= files + 4, "no socket is left")


async def test_a_prompt_that_no_frame_holds_fails_its_own_call(
    fleet: ChannelFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "MAX_FRAME_BYTES", 4096)
    async with fleet.gateway() as (pool, links):
        async with pool.reserve(["a"]) as place:
            with pytest.raises(frames.FrameError, match="can be sent"):
                place.send(replace(call_of("plain-1"), token_ids=list(range(2000))))
        assert links.open["a"].in_flight == 0
        assert await answered(pool)
