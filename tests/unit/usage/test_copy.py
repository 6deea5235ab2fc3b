"""Use outlives a server that begins empty, and one that is full."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from support.own_valkey import socket_url, valkey_server

from aloraserve.errors import DirectoryUnavailableError
from aloraserve.ledger.redis import WORN_BUCKETS
from aloraserve.usage.base import DAY_S, KEPT_DAYS, UsageFigures
from aloraserve.usage.copy import UsageCopy
from aloraserve.usage.redis import UsageLedger

TODAY = 20_000


@pytest.fixture
def url(redis_server: Any) -> str:
    return str(redis_server.url)


class Server:
    """A server that may lose what it has: later ledgers have another namespace."""

    def __init__(self, url: str, name: str) -> None:
        self._url, self._name, self._starts = url, name, 0
        self.opened: list[UsageLedger] = []

    def empty(self) -> None:
        """Lose everything."""
        self._starts += 1

    def ledger(self) -> UsageLedger:
        """Return a ledger of it."""
        opened = UsageLedger.from_url(self._url, namespace=f"{self._name}-{self._starts}", timeout_s=5.0)
        self.opened.append(opened)
        return opened

    def copy(self, folder: Path, day: int = TODAY) -> UsageCopy:
        """Return a copy of it on a day."""
        return UsageCopy(folder, self.ledger(), lambda: day * DAY_S + 5.0)


@pytest.fixture
async def server(redis_server: Any, request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    made = Server(str(redis_server.url), request.node.name)
    yield made
    for opened in made.opened:
        await opened.close()


async def test_what_was_counted_is_put_back_and_added_to_what_came_since(server: Server, tmp_path: Path) -> None:
    copy, gateway = server.copy(tmp_path), server.ledger()
    for days_ago, requests in ((0, 3), (1, 2), (0, 1)):
        gateway.count("acme", UsageFigures(requests=requests, prompt_tokens=10), (TODAY - days_ago) * DAY_S)
    gateway.count("", UsageFigures(refused=1), TODAY * DAY_S)
    await gateway.flush()
    await copy.keep()
    server.empty()
    restarted, gateway = server.copy(tmp_path, TODAY + 1), server.ledger()
    gateway.count("acme", UsageFigures(requests=5), TODAY * DAY_S)
    await gateway.flush()
    for _ in range(2):
        await restarted.keep()
    assert await day(gateway, TODAY) == {
        "acme": UsageFigures(requests=9, prompt_tokens=20),
        "": UsageFigures(refused=1),
    }
    assert await day(gateway, TODAY - 1) == {"acme": UsageFigures(requests=2, prompt_tokens=10)}


async def test_a_server_that_is_away_is_filled_once_it_is_back(server: Server, tmp_path: Path) -> None:
    with valkey_server() as own:
        copy = UsageCopy(tmp_path, UsageLedger.from_url(socket_url(own), namespace="own"), lambda: TODAY * DAY_S + 5.0)
        (tmp_path / f"{TODAY}.json").write_text('{"acme": {"requests": 3}}')
        copy.emptied()
        own.terminate()
        with pytest.raises(DirectoryUnavailableError):
            await copy.keep()
        own.start()
        reader = UsageLedger.from_url(socket_url(own), namespace="own")
        await copy.keep()
        assert await day(reader, TODAY) == {"acme": UsageFigures(requests=3)}
        await reader.close()
        await copy.close()


async def day(ledger: UsageLedger, number: int) -> dict[str, UsageFigures]:
    return (await ledger.days([number]))[number]


def files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def test_old_days_and_damaged_files_go(server: Server, tmp_path: Path) -> None:
    for number in (TODAY - KEPT_DAYS, TODAY - KEPT_DAYS + 1):
        (tmp_path / f"{number}.json").write_text('{"acme": {"requests": 1}}')
    (tmp_path / f"{TODAY - 3}.json").write_text("{")
    await server.copy(tmp_path).keep()
    assert {path.stem for path in files(tmp_path)} == {str(TODAY - KEPT_DAYS + 1), str(TODAY - 3)}


async def test_no_use_expires_and_days_that_nobody_can_ask_for_are_removed(server: Server, redis_server: Any) -> None:
    """Under ``volatile-lru`` a server that is full takes nothing but what expires."""
    gateway = server.ledger()
    for number in (TODAY, TODAY + KEPT_DAYS, TODAY + KEPT_DAYS + 2 + WORN_BUCKETS - 1):
        gateway.count("acme", UsageFigures(requests=1), number * DAY_S)
        await gateway.flush()
        async with redis.asyncio.Redis.from_url(str(redis_server.url)) as admin:
            keys = [key async for key in admin.scan_iter(f"{gateway._prefix}{DAY_S}:*")]
            assert [await admin.pttl(key) for key in keys] == [-1] * len(keys)
            assert gateway._key((DAY_S, number)).encode() in keys
            assert (gateway._key((DAY_S, TODAY)).encode() in keys) == (number <= TODAY + KEPT_DAYS)


async def test_a_server_that_is_full_keeps_use(tmp_path: Path) -> None:
    with valkey_server() as full:
        used = UsageLedger.from_url(socket_url(full), namespace="full", timeout_s=5.0)
        used.count("acme", UsageFigures(requests=3), TODAY * DAY_S)
        await used.flush()
        async with redis.asyncio.Redis.from_url(socket_url(full)) as admin:
            await admin.config_set("maxmemory-policy", "volatile-lru")
            await admin.config_set("maxmemory", "4mb")
            for number in range(600):
                await admin.set(f"block-{number}", b"x" * 16_384, px=60_000)
            assert (await admin.info("stats"))["evicted_keys"] > 100
        assert await day(used, TODAY) == {"acme": UsageFigures(requests=3)}
        await used.close()
