"""What goes wrong between a gateway and a replica: one call fails at most, clearly, and nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from support.channel_fleet import ChannelFleet, channel_fleet, until
from support.pool_replica import CAPACITY, call_of, running

from aloraserve.routing.receipts import Outcome
from aloraserve_services.channel import frames, served_gateway
from aloraserve_services.channel.connection import ChannelLostError, connect
from aloraserve_services.channel.credentials import new_nonce, proof
from aloraserve_services.channel.endpoint import ChannelVersionError, Endpoint
from aloraserve_services.channel.messages import VERSION, Challenge, Hello, Ping, Refused, decode_to_gateway, encode
from aloraserve_services.channel.replies import CREDITS
from aloraserve_services.channel.server import MAX_STRANGERS
from aloraserve_services.gateway.channel_pool import ChannelPool

CONNECTS = 10_000


def frame(*messages: bytes) -> bytes:
    body = b"\xdd" + struct.pack(">I", len(messages)) + b"".join(messages)
    return struct.pack("<I", len(body)) + body


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[ChannelFleet]:
    """One replica, and a count of what its process has open before and after."""
    before = len(psutil.Process().net_connections("all")), len(asyncio.all_tasks())
    async with channel_fleet(tmp_path, "a") as made:
        yield made
    await until(
        lambda: (len(psutil.Process().net_connections("all")), len(asyncio.all_tasks())) <= before, "nothing leaked"
    )
    assert not running(tmp_path)


class Stranger:
    """A client that speaks the wire by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def come(cls, endpoint: Endpoint) -> Stranger:
        """Connect."""
        return cls(*await asyncio.open_unix_connection(endpoint.socket))

    async def messages(self) -> list[Any]:
        """Return the messages of the next frame."""
        (length,) = struct.unpack("<I", await self.reader.readexactly(4))
        return decode_to_gateway(await self.reader.readexactly(length))

    async def greet(self, secret: bytes, version: int = VERSION) -> list[Any]:
        """Say who one is; return the answer."""
        challenge = (await self.messages())[0]
        assert isinstance(challenge, Challenge)
        nonce = new_nonce()
        self.writer.write(frame(encode(Hello(version, nonce, proof(secret, "gateway", challenge.nonce, nonce)))))
        return await self.messages()

    async def is_closed(self) -> bool:
        """Wait until the other end has closed."""
        with contextlib.suppress(ConnectionError):
            await self.reader.read()
        self.writer.close()
        return True


async def answered(pool: ChannelPool, name: str = "plain-1") -> str:
    async with pool.reserve(["a"]) as place:
        return "".join([reply.text async for reply in place.send(call_of(name))])


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


async def test_a_replica_without_a_connection_is_reached_by_the_handle(fleet: ChannelFleet) -> None:
    fleet.endpoints["a"] = replace(fleet.endpoints["a"], socket="/none")
    handle = Handle()
    async with fleet.gateway(handle) as (pool, links):
        assert links.by_handle == {"a"}
        async with pool.reserve(["a"]) as place:
            assert (place.replica, place.send(call_of("x"))) == ("by handle", "x")
        assert handle.ranks == [["a", "a"]]
        assert handle.held == 0


class Handle:
    """A pool that notes what it is asked for."""

    def __init__(self) -> None:
        self.ranks: list[list[str]] = []
        self.held = 0

    @contextlib.asynccontextmanager
    async def reserve(self, rank: list[str]) -> AsyncIterator[Any]:
        self.ranks.append(rank)
        self.held += 1
        yield HandlePlace()
        self.held -= 1


class HandlePlace:
    replica = "by handle"

    def send(self, call: Any) -> str:
        return str(call.request_id)


async def test_a_slow_reader_stops_its_own_call_in_the_engine(fleet: ChannelFleet) -> None:
    replica = fleet.replicas["a"]
    async with fleet.gateway() as (pool, _), pool.reserve(["a"]) as slow:
        flood = slow.send(call_of("flood-1"))
        await flood.__anext__()
        # One is in the server's hand, which waits for a credit.
        await until(lambda: replica.flooded == CREDITS + 1, "the credits are used up")
        assert await answered(pool), "another call on the same connection goes on"
        assert replica.flooded == CREDITS + 1
        for _ in range(4 * CREDITS):
            await flood.__anext__()
        assert replica.flooded <= 6 * CREDITS
        flood.cancel()
    await until(lambda: not running(fleet.folder), "the engine has ended it")


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


async def test_calls_that_are_cancelled_at_any_moment_leave_no_place(fleet: ChannelFleet) -> None:
    async def begin(number: int) -> None:
        async with pool.reserve(["a"]) as place:
            replies = place.send(call_of(f"hold-{number}"))
            for _ in range(number % 3):
                await replies.__anext__()
            replies.cancel()

    async with fleet.gateway(max_queued=200) as (pool, links):
        for turn in range(20):
            tasks = [asyncio.create_task(begin(number)) for number in range(10 * turn, 10 * turn + 10)]
            for _ in range(turn):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await until(lambda: fleet.servers["a"].running == 0, "every place is free")
        assert (links.open["a"].in_flight, pool.waiting) == (0, 0)
        assert await answered(pool)


async def test_a_full_replica_passes_calls_of_a_second_gateway_on(tmp_path: Path) -> None:
    async with channel_fleet(tmp_path, "a", "b") as fleet, fleet.gateway() as (one, _), fleet.gateway() as (two, _):
        async with contextlib.AsyncExitStack() as stack:
            for number in range(CAPACITY):
                place = await stack.enter_async_context(one.reserve(["a"]))
                await place.send(call_of(f"hold-{number}")).__anext__()
            second = await stack.enter_async_context(two.reserve(["a", "b"]))
            assert second.replica == "a"
            replies = second.send(call_of("hold-9"))
            await replies.__anext__()
            assert second.replica == "b"
            third = await stack.enter_async_context(two.reserve(["a", "b"]))
            assert third.replica == "b", "it knows now that the first is full"
        await until(lambda: not running(tmp_path), "all have ended")
        async with two.reserve(["a", "b"]) as place:
            assert place.replica == "a", "and that it has room again"


async def test_a_call_that_finds_all_full_waits_and_goes_first(fleet: ChannelFleet) -> None:
    async with fleet.gateway() as (one, _), fleet.gateway() as (two, _):
        async with contextlib.AsyncExitStack() as stack:
            for number in range(CAPACITY):
                place = await stack.enter_async_context(one.reserve(["a"]))
                await place.send(call_of(f"hold-{number}")).__anext__()
            refused = asyncio.create_task(answered(two, "plain-1"))
            await until(lambda: two.waiting == 1, "it was refused and waits")
            behind = asyncio.create_task(answered(two, "plain-2"))
            await until(lambda: two.waiting == 2, "another waits behind it")
        assert await refused
        assert await behind


async def test_a_replica_that_drains_ends_its_calls_and_takes_no_more(tmp_path: Path) -> None:
    async with channel_fleet(tmp_path, "a", "b") as fleet, fleet.gateway() as (pool, links):
        async with pool.reserve(["a"]) as place:
            replies = place.send(call_of("plain-1", 50))
            await replies.__anext__()
            draining = asyncio.create_task(fleet.servers["a"].drain(10))
            await until(lambda: not links.open["a"].has_room, "the gateway knows")
            async with pool.reserve(["a", "b"]) as other:
                assert other.replica == "b"
            assert [reply async for reply in replies][-1].finish_reason == "length"
            await draining
        assert fleet.servers["a"].running == 0


async def test_a_drain_is_bounded(fleet: ChannelFleet) -> None:
    async with fleet.gateway() as (pool, _), pool.reserve(["a"]) as place:
        await place.send(call_of("hold-1")).__anext__()
        await fleet.servers["a"].drain(0.05)
        assert fleet.servers["a"].running == 1


async def test_a_replica_that_serve_drops_ends_what_it_has(fleet: ChannelFleet) -> None:
    async with fleet.gateway() as (pool, links):
        async with pool.reserve(["a"]) as place:
            replies = place.send(call_of("plain-1", 20))
            await replies.__anext__()
            kept = fleet.endpoints.pop("a")
            links.look()
            await until(lambda: not links.open, "it is dropped")
            assert [reply async for reply in replies][-1].finish_reason == "length"
        await until(lambda: fleet.servers["a"].connections == 0, "and closed")
        fleet.endpoints["a"] = kept


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


REPLICA = """
import asyncio, json, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from support.channel_fleet import channel_fleet

async def main():
    async with channel_fleet(Path({folder!r}), "a", is_tls={tls}) as fleet:
        endpoint = fleet.endpoints["a"].as_dict()
        print(json.dumps(endpoint | {{"secret": endpoint["secret"].hex()}}), flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""
GATEWAY = """
import asyncio, json, sys
sys.path.insert(0, {tests!r})
from support.pool_replica import call_of
from aloraserve_services.channel.connection import connect
from aloraserve_services.channel.endpoint import Endpoint
from aloraserve_services.channel.replies import ChannelReplies

async def main():
    values = json.loads(sys.stdin.readline())
    connection = await connect(Endpoint.from_dict(values | {{"secret": bytes.fromhex(values["secret"])}}), print)
    replies = ChannelReplies(None)
    connection.call(call_of("hold-1"), replies)
    await replies.__anext__()
    print("running", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@contextlib.contextmanager
def child(script: str, **values: Any) -> Any:
    """Run a script in a process of its own."""
    code = script.format(tests=str(Path(__file__).parents[1]), **values)
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("is_tls", [False, True], ids=["unix", "tls"])
async def test_a_killed_replica_loses_its_calls_at_once(tmp_path: Path, is_tls: bool) -> None:
    fleet = ChannelFleet(tmp_path)
    with child(REPLICA, folder=str(tmp_path), tls=is_tls) as process:
        values = await asyncio.to_thread(_json_line, process)
        fleet.endpoints["a"] = Endpoint.from_dict(values | {"secret": bytes.fromhex(values["secret"])})
        async with fleet.gateway(Handle()) as (pool, links):
            async with pool.reserve(["a"]) as place:
                replies = place.send(call_of("hold-1"))
                await replies.__anext__()
                os.kill(process.pid, signal.SIGKILL)
                with pytest.raises(ChannelLostError) as raised:
                    await replies.__anext__()
                assert pool.outcome_of(raised.value) is Outcome.LOST
            await until(lambda: "a" not in links.open, "it is not used any more")


async def test_a_killed_gateway_s_calls_end_in_the_engine(fleet: ChannelFleet) -> None:
    endpoint = fleet.endpoints["a"].as_dict()
    with child(GATEWAY) as process:
        process.stdin.write(f"{_json(endpoint | {'secret': endpoint['secret'].hex()})}\n")
        process.stdin.flush()
        assert await asyncio.to_thread(process.stdout.readline) == "running\n"
        assert fleet.servers["a"].running == 1
        os.kill(process.pid, signal.SIGKILL)
        await until(lambda: fleet.servers["a"].running == 0 and not running(fleet.folder), "the engine has ended it")


def _json(values: Any) -> str:
    return msgspec.json.encode(values).decode()


def _json_line(process: Any) -> dict[str, Any]:
    for line in process.stdout:
        if line.startswith("{"):
            found: dict[str, Any] = msgspec.json.decode(line)
            return found
    raise AssertionError("the replica did not start")
