"""Questions of replicas to each other: encrypted between machines, bounded, and never left hanging."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from support.channel_fleet import until

from aloraserve.serving.engine_messages import EngineCall
from aloraserve_services.channel.connection import CallFailedError, ChannelLostError, connect
from aloraserve_services.channel.endpoint import Endpoint
from aloraserve_services.channel.messages import Hottest
from aloraserve_services.channel.peers import ask_hottest, ask_prefill
from aloraserve_services.channel.served_peer import MAX_QUESTIONS
from aloraserve_services.channel.server import ChannelServer

PACKED = b"a prompt of tenant:acme"
WITHIN_S = 20.0


class Warm:
    """A replica that others ask.

    Attributes:
        computed: what it was asked to compute.
        asked: questions that have begun and not ended.
        fault: raised in the place of an answer.
        is_hanging: whether it never answers.
    """

    def __init__(self) -> None:
        self.computed: list[tuple[bytes, float]] = []
        self.asked = 0
        self.fault: Exception | None = None
        self.is_hanging = False

    async def hottest(self) -> bytes:
        self.asked += 1
        try:
            if self.is_hanging:
                await asyncio.Event().wait()
            if self.fault is not None:
                raise self.fault
            return PACKED
        finally:
            self.asked -= 1

    async def prefill(self, prefixes: bytes, budget_s: float) -> int:
        self.computed.append((prefixes, budget_s))
        return 3


def nothing(call: EngineCall) -> Any:
    raise AssertionError("nobody calls")


@asynccontextmanager
async def served(warm: Warm | None, host: str = "127.0.0.1") -> AsyncIterator[tuple[ChannelServer, Endpoint]]:
    server = ChannelServer("a", nothing, 1, warm)
    endpoint = await server.start(host)
    try:
        yield server, endpoint
    finally:
        server.close()


@asynccontextmanager
async def overheard(endpoint: Endpoint) -> AsyncIterator[tuple[Endpoint, bytearray]]:
    """Have what goes to a replica on another machine pass somebody who reads all of it."""
    heard = bytearray()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                heard.extend(data)
                writer.write(data)
        finally:
            writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(endpoint.host, endpoint.port)
        await asyncio.gather(pass_on(reader, back), pass_on(there, writer))

    async with await asyncio.start_server(connected, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        yield replace(endpoint, socket="/none", host="127.0.0.1", port=port), heard


async def test_between_machines_nobody_reads_what_replicas_send_each_other() -> None:
    warm = Warm()
    async with served(warm, "0.0.0.0") as (_, endpoint), overheard(endpoint) as (there, heard):
        assert await ask_hottest(there) == PACKED
        assert await ask_prefill(there, PACKED, 2.5) == 3
    assert warm.computed == [(PACKED, 2.5)]
    assert len(heard) > len(PACKED)
    assert b"tenant:acme" not in heard


async def test_on_one_machine_the_private_socket_is_used() -> None:
    async with served(Warm()) as (_, endpoint):
        assert await ask_hottest(endpoint) == PACKED


async def test_who_lacks_the_secret_learns_nothing() -> None:
    async with served(Warm()) as (_, endpoint):
        with pytest.raises(ChannelLostError, match="secret"):
            await ask_hottest(replace(endpoint, secret=bytes(32)))


async def test_a_failure_is_answered_by_its_name_alone() -> None:
    warm = Warm()
    warm.fault = ValueError("a prompt")
    async with served(warm) as (_, endpoint):
        with pytest.raises(CallFailedError, match="ValueError") as raised:
            await ask_hottest(endpoint)
        assert "a prompt" not in str(raised.value)


async def test_a_replica_that_is_asked_by_nobody_refuses() -> None:
    async with served(None) as (_, endpoint):
        with pytest.raises(CallFailedError, match="NotAnswered"):
            await ask_hottest(endpoint)


async def test_a_replica_that_ends_leaves_no_question_hanging() -> None:
    warm = Warm()
    warm.is_hanging = True
    async with served(warm) as (server, endpoint):
        asking = asyncio.create_task(ask_hottest(endpoint))
        await until(lambda: warm.asked == 1, "it is asked")
        server.close()
        with pytest.raises(ChannelLostError):
            await asyncio.wait_for(asking, WITHIN_S)


async def test_who_gives_up_ends_the_work() -> None:
    warm = Warm()
    warm.is_hanging = True
    async with served(warm) as (_, endpoint):
        asking = asyncio.create_task(ask_hottest(endpoint))
        await until(lambda: warm.asked == 1, "it is asked")
        asking.cancel()
        await until(lambda: warm.asked == 0, "the work has ended")


async def test_a_connection_has_only_so_many_questions_at_a_time() -> None:
    warm = Warm()
    warm.is_hanging = True
    async with served(warm) as (_, endpoint):
        connection = await connect(endpoint, lambda: None)
        asking = [asyncio.create_task(connection.ask(Hottest)) for _ in range(MAX_QUESTIONS)]
        await until(lambda: warm.asked == MAX_QUESTIONS, "all are asked")
        with pytest.raises(CallFailedError, match="NotAnswered"):
            await connection.ask(Hottest)
        connection.close("done")
        await asyncio.gather(*asking, return_exceptions=True)
