"""Clients that misbehave, and what others notice: streams never read, bodies that are refused, idle connections."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from urllib.parse import urlsplit

from aloraserve.wire.answer_stream import CallFailedError
from benchmarks.gateway_calls import CALL_TOKENS, Arm, Bodies
from benchmarks.gateway_result import (
    CALL_IDLE,
    HEALTH_BIG_BODY,
    HEALTH_IDLE,
    MEMORY,
    OTHERS_TTFT,
    ArmResult,
)
from benchmarks.harness.counting_client import CHATS, COMPLETIONS, CountingClient
from benchmarks.harness.processes import without_engines
from benchmarks.harness.stats import percentile

UNREAD_STREAMS, UNREAD_TOKENS, UNREAD_S = 64, 4000, 6.0
UNREAD_SEED, RECEIVE_BYTES = 2_000_000, 4096
IDLE_CONNECTIONS = 100
CALLS = 60
PROBES, PROBE_EVERY_S = 100, 0.01
PATIENCE_S = 5.0
"""What takes longer counts as that long: a server that stands still is not waited for."""
HUGE_BODY_BYTES = 9_000_000


class Abuse:
    """Misbehaves towards one platform and measures what others notice.

    Args:
        arm: the platform.
        bodies: to send.
        result: where the figures go.
        max_model_len: of the platform, which its longest body follows from.
    """

    def __init__(self, arm: Arm, bodies: Bodies, result: ArmResult, max_model_len: int) -> None:
        address = urlsplit(arm.urls[0])
        self._address = (address.hostname or "", address.port or 80)
        self._arm = arm
        self._bodies = bodies
        self._result = result
        self._longest_body = max(256 << 10, 64 * max_model_len)

    async def run(self) -> None:
        """Do all of it, one after the other."""
        quiet_s = await self._ttft_p90()
        self._result.samples[HEALTH_BIG_BODY].append(await self._beside_big_bodies())
        async with self._idle_connections():
            self._result.samples[HEALTH_IDLE].append(1000 * max(await self._probes(PROBES)))
            self._result.samples[CALL_IDLE].append(await self._ttft_p90() / quiet_s)
        await self._beside_unread_streams(await self._ttft_p90())

    async def _beside_unread_streams(self, quiet_s: float) -> None:
        assert self._arm.processes is not None
        before = without_engines(self._arm.processes.memory_mb())
        body = self._bodies.chat(self._bodies.text(UNREAD_SEED, CALL_TOKENS), UNREAD_TOKENS, stream=True)
        with contextlib.ExitStack() as stack:
            for _ in range(UNREAD_STREAMS):
                stack.enter_context(self._unread(_request(CHATS, body)))
            started, most = time.monotonic(), before
            ttft_s: list[float] = []
            while time.monotonic() - started < UNREAD_S:
                ttft_s += await self._ttft(CALLS // 6)
                most = max(most, without_engines(self._arm.processes.memory_mb()))
        self._result.samples[MEMORY].append(most - before)
        self._result.samples[OTHERS_TTFT].append(percentile(ttft_s, 0.9) / quiet_s)

    @contextlib.contextmanager
    def _unread(self, request: bytes) -> Iterator[None]:
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
            connection.connect(self._address)
            connection.sendall(request)
            yield

    async def _beside_big_bodies(self) -> float:
        """Return the longest time of a probe, in milliseconds, beside any kind of body."""
        worst_s = 0.0
        for path, body in _refused_bodies(self._bodies.model, self._longest_body):
            sending = asyncio.create_task(self._refused(path, body))
            while not sending.done():
                worst_s = max(worst_s, *await self._probes(2))
            await sending
        return worst_s * 1000

    async def _refused(self, path: str, body: bytes) -> None:
        client = CountingClient(self._arm.urls[0])
        with contextlib.suppress(CallFailedError):
            await client.post(path, body)
            raise RuntimeError(f"a body of {len(body)} bytes for {path} was accepted; all of these have to be refused")
        client.close()

    @contextlib.asynccontextmanager
    async def _idle_connections(self) -> AsyncIterator[None]:
        """Hold connections that send nothing, and as many that send the beginning of a body."""
        begun = _request(CHATS, {"model": self._bodies.model})[:-1]
        writers = []
        for number in range(2 * IDLE_CONNECTIONS):
            _, writer = await asyncio.open_connection(*self._address)
            writers.append(writer)
            if number % 2:
                writer.write(begun)
        try:
            yield
        finally:
            for writer in writers:
                writer.close()

    async def _probes(self, count: int) -> list[float]:
        client, found = CountingClient(self._arm.urls[0]), list[float]()
        for _ in range(count):
            found.append(await _taken_s(client.get("/healthz")))
            await asyncio.sleep(PROBE_EVERY_S)
        client.close()
        return found

    async def _ttft_p90(self) -> float:
        return percentile(await self._ttft(CALLS), 0.9)

    async def _ttft(self, count: int) -> list[float]:
        client, found, started = CountingClient(self._arm.urls[0]), list[float](), time.monotonic()
        while len(found) < count and time.monotonic() - started < PATIENCE_S:
            found.append(await _taken_s(client.call(CHATS, self._bodies.fresh(CALL_TOKENS, 1))))
        client.close()
        return found


async def _taken_s(call: Awaitable[object]) -> float:
    started = time.perf_counter()
    with contextlib.suppress(CallFailedError, TimeoutError):
        async with asyncio.timeout(PATIENCE_S):
            await call
            return time.perf_counter() - started
    return PATIENCE_S


def _request(path: str, body: object) -> bytes:
    raw = json.dumps(body).encode()
    return f"POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-length: {len(raw)}\r\n\r\n".encode() + raw


def _refused_bodies(model: str, size: int) -> Iterator[tuple[str, bytes]]:
    """Yield bodies that a server reads before it refuses them, of the greatest size that it reads, and one above."""
    for entry in ('"a"', "{}", "1.5", "-1", "[]"):
        yield COMPLETIONS, _filled(f'{{"model":"{model}","prompt":[', entry, "]}", size)
        yield CHATS, _filled(f'{{"model":"{model}","messages":[', entry, "]}", size)
    yield COMPLETIONS, _filled(f'{{"model":"{model}","prompt":[', "1", "]}", size)
    yield COMPLETIONS, _filled(f'{{"model":"{model}","prompt":"', "word", '"}', size, " ")
    yield COMPLETIONS, b'{"model":' + b"[" * (size - 20)
    yield COMPLETIONS, _filled(f'{{"model":"{model}","prompt":[', '"a"', "]}", HUGE_BODY_BYTES)


def _filled(head: str, entry: str, tail: str, size: int, separator: str = ",") -> bytes:
    count = (size - len(head) - len(tail)) // (len(entry) + len(separator))
    return f"{head}{separator.join([entry] * count)}{tail}".encode()
