"""The directory over TLS, and as a user that may do no more than the documentation says it needs."""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from redis.asyncio import Redis
from support.catalog_entries import deleted, record
from support.redis_deployments import Server, Wire, certificates, free_port, wait_until

from aloraserve.adapters.catalog import CatalogPosition
from aloraserve.adapters.catalog.redis import RedisCatalog
from aloraserve.blocks import KeySpace
from aloraserve.directory import redis_reclaim
from aloraserve.directory.base import ReplicaState, place
from aloraserve.directory.redis import RedisDirectory
from aloraserve.errors import DirectoryUnavailableError
from aloraserve.savings.base import CachedBySource, CallSavings, SavingsEntry
from aloraserve.savings.redis import RedisLedger
from aloraserve.telemetry.endpoints import MetricsEndpoint
from aloraserve.telemetry.redis_endpoints import RedisEndpoints

SPACE = KeySpace("model", "tokenizer", 1)
PROMPT = SPACE.keys(range(300))
# So many chains that part in one run that its node is scanned in several parts.
SIBLINGS = [one for number in range(600) for one in place(SPACE.keys([0, 1000 + number]))[1:]]
PASSWORD = "p/a@s:s#w?ö d"
DOCUMENT = Path(__file__).parents[2] / "docs" / "concepts" / "directory.md"
RULES = next(re.finditer(r"^ACL SETUSER aloraserve (.+)$", DOCUMENT.read_text(), re.MULTILINE)).group(1).split()
COMMANDS = [rule[1:] for rule in RULES if rule.startswith("+")]
CLUSTER_ONLY = {"cluster|slots", "asking"}
NOT_NEEDED = {"info"}
"""What a user may lack at a price that the documentation names."""


async def exercise(directory: RedisDirectory) -> None:
    """Call everything, so that each script takes all of its ways."""
    await directory.ping()
    await directory.join(SPACE)
    for incarnation in ("1", "2"):
        await directory.publish(ReplicaState("a", incarnation), ttl_s=60, settled=["gone"])
        await directory.apply("a", incarnation, stored=place(PROMPT) + SIBLINGS)
    await directory.apply("a", "1", removed=place(PROMPT)[290:], fence=1)
    await directory._report(directory._shard(PROMPT), [b"no owner" + PROMPT[0]])
    await directory.publish(ReplicaState("b", "1"), ttl_s=60)
    assert await directory.claim("c1", "b", "1", PROMPT, tokens=5, unseen_from=7)
    assert not await directory.claim("c2", "a", "2", PROMPT, tokens=5, unseen_from=7)
    await directory.claim("c3", "b", "1", PROMPT, tokens=2)
    await directory.publish(ReplicaState("b", "1"), ttl_s=60, settled=["c3"])
    assert [one.claimed_tokens for one in await directory.lookup(PROMPT)] == [0, 5]
    await directory.withdraw("c1", "b", "1", PROMPT)
    await directory.retire("b")
    assert [state.replica for state in await directory.states()] == ["a"]
    await directory.epoch()
    freed, deadline = 0, time.monotonic() + 10
    while freed < 890 and time.monotonic() < deadline:
        freed += await directory.reclaim(max_fields=64)
    assert freed == 890


async def exercise_ledger(ledger: RedisLedger) -> None:
    """Count a call and read it back, as a gateway does beside the directory."""
    ledger.add(SavingsEntry("safety", 0.1, 5, CallSavings(0.2, 3, 1, 0.5, CachedBySource(base=4))), time.time())
    assert (await ledger.totals(60, time.time()))["safety"].calls == 1


async def exercise_endpoints(url: str) -> None:
    """List a process with metrics and read the list, as gateways and replicas do."""
    registry = RedisEndpoints.from_url(url, namespace="fleet", timeout_s=2.0)
    try:
        await registry.register_endpoint(MetricsEndpoint("engine", "engine-0", "localhost:1"))
        assert [endpoint.name for endpoint in await registry.endpoints()] == ["engine-0"]
    finally:
        await registry.close()


async def exercise_catalog(url: str) -> None:
    """Register, delete and forget adapters, and read what changed, as gateways and replicas do."""
    catalog = RedisCatalog.from_url(url, namespace="fleet", timeout_s=2.0, max_deleted=1)
    try:
        for name in ("a", "b"):
            stored = await catalog.get(name)
            revision = await catalog.put(record(name), expected=0 if stored is None else stored.revision)
            await catalog.put(deleted(record(name)), expected=revision)
        stored = await catalog.get("c")
        await catalog.put(record("c"), expected=0 if stored is None else stored.revision)
        assert [each.record.name for each in (await catalog.changes(CatalogPosition())).records] == ["b", "c"]
    finally:
        await catalog.close()


async def is_refused(directory: RedisDirectory, ledger: RedisLedger, url: str) -> bool:
    try:
        await exercise(directory)
        await exercise_endpoints(url)
        await exercise_ledger(ledger)
    except DirectoryUnavailableError:
        return True
    return False


@pytest.fixture
async def opened() -> AsyncIterator[Any]:
    async with AsyncExitStack() as stack:

        def build(url: str, namespace: str = "fleet") -> RedisDirectory:
            directory = RedisDirectory.from_url(url, namespace=namespace, timeout_s=2.0)
            stack.push_async_callback(directory.close)
            return directory

        yield build


@pytest.fixture
async def opened_ledger() -> AsyncIterator[Any]:
    async with AsyncExitStack() as stack:

        def build(url: str) -> RedisLedger:
            ledger = RedisLedger.from_url(url, namespace="fleet", timeout_s=2.0)
            stack.push_async_callback(ledger.close)
            return ledger

        yield build


@pytest.fixture
def quick_reclaim(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_reclaim, "SUPERSEDED_S", 0.001)
    monkeypatch.setattr(redis_reclaim, "RECLAIM_WINDOW_S", 0.001)


@pytest.fixture
def tls(tmp_path: Path) -> tuple[ssl.SSLContext, Path]:
    return certificates(tmp_path)


class User:
    """The documentation's user on one server, its password set, less some commands."""

    def __init__(self, server_url: str) -> None:
        self._server_url = server_url
        self.url = server_url.replace("unix://", f"unix://aloraserve:{quote(PASSWORD, safe='')}@")

    async def allow(self, *less: str) -> None:
        rules = [rule for rule in RULES if not rule.startswith(">")]
        async with Redis.from_url(self._server_url) as admin:
            await admin.flushall()
            await admin.script_flush()
            await admin.execute_command(
                "ACL", "SETUSER", "aloraserve", "reset", f">{PASSWORD}", *rules, *(f"-{one}" for one in less)
            )


@pytest.fixture
async def user(redis_server: Any) -> User:
    return User(redis_server.url)


async def test_the_documented_user_can_do_everything(
    user: User, opened: Any, opened_ledger: Any, quick_reclaim: None
) -> None:
    await user.allow()
    await exercise(opened(user.url))
    await exercise_endpoints(user.url)
    await exercise_ledger(opened_ledger(user.url))
    await exercise_catalog(user.url)
    await opened(user.url, "fleet-ping").ping()


async def test_the_documented_user_needs_all_that_it_may(
    user: User, opened: Any, opened_ledger: Any, quick_reclaim: None
) -> None:
    for command in set(COMMANDS) - CLUSTER_ONLY - NOT_NEEDED:
        await user.allow(command)
        assert await is_refused(opened(user.url), opened_ledger(user.url), user.url), f"{command} is not needed"


async def test_without_info_all_but_restarts_from_saved_data_is_noticed(
    user: User, opened: Any, quick_reclaim: None
) -> None:
    await user.allow("info")
    await exercise(opened(user.url))
    await exercise_endpoints(user.url)


async def test_the_documented_user_sees_no_other_namespace(user: User, opened: Any) -> None:
    await user.allow()
    with pytest.raises(DirectoryUnavailableError, match="NoPermissionError"):
        await opened(user.url, "other").ping()


async def test_a_wrong_password_is_an_unavailable_directory_and_not_shown(user: User, opened: Any) -> None:
    await user.allow()
    with pytest.raises(DirectoryUnavailableError) as caught:
        await opened(user.url.replace("p%2F", "s3cret")).ping()
    assert "s3cret" not in caught.value.message


async def test_everything_works_over_tls(
    redis_server: Any, tls: tuple[ssl.SSLContext, Path], opened: Any, user: User, quick_reclaim: None
) -> None:
    context, authority = tls
    await user.allow()
    async with Wire(redis_server.url.removeprefix("unix://"), tls=context) as wire:
        name = f"aloraserve:{quote(PASSWORD, safe='')}"
        await exercise(opened(f"rediss://{name}@127.0.0.1:{wire.port}/0?ssl_ca_certs={quote(str(authority))}"))
        await exercise_endpoints(f"rediss://{name}@127.0.0.1:{wire.port}/0?ssl_ca_certs={quote(str(authority))}")
        await exercise_catalog(f"rediss://{name}@127.0.0.1:{wire.port}/0?ssl_ca_certs={quote(str(authority))}")


async def test_a_server_that_nobody_trusted_vouches_for_gets_nothing(
    redis_server: Any, tls: tuple[ssl.SSLContext, Path], tmp_path: Path, opened: Any
) -> None:
    (tmp_path / "other").mkdir()
    _, stranger = certificates(tmp_path / "other")
    async with Wire(redis_server.url.removeprefix("unix://"), tls=tls[0]) as wire:
        for url in (
            f"rediss://127.0.0.1:{wire.port}",
            f"rediss://127.0.0.1:{wire.port}?ssl_ca_certs={quote(str(stranger))}",
            f"redis://127.0.0.1:{wire.port}",
        ):
            with pytest.raises(DirectoryUnavailableError):
                await opened(url).ping()


@pytest.fixture
def one_server_cluster(tmp_path: Path) -> Iterator[tuple[Server, Any]]:
    """A started server that is a cluster, once it is told where its clients find it."""
    started: list[Server] = []

    def start(announced: int, port: int) -> Server:
        options = (
            "--cluster-enabled",
            "yes",
            "--cluster-port",
            str(free_port()),
            "--cluster-announce-port",
            str(announced),
        )
        server = Server(tmp_path / "node", *options, "--cluster-announce-ip", "127.0.0.1", port=port)
        started.append(server)
        server.start()
        server.client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
        wait_until(lambda: server.client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
        return server

    yield start
    for one in started:
        one.kill()


async def test_a_cluster_over_tls_as_the_documented_user(
    one_server_cluster: Any, tls: tuple[ssl.SSLContext, Path], opened: Any, quick_reclaim: None
) -> None:
    context, authority = tls
    server = Server(authority.parent)
    async with Wire(server.port, tls=context) as wire:
        one_server_cluster(wire.port, server.port)
        rules = [rule for rule in RULES if not rule.startswith(">")]
        server.client.execute_command("ACL", "SETUSER", "aloraserve", "reset", f">{PASSWORD}", *rules)
        name = f"aloraserve:{quote(PASSWORD, safe='')}"
        url = f"rediss+cluster://{name}@127.0.0.1:{wire.port}?ssl_ca_certs={quote(str(authority))}"
        await exercise(opened(url))
        await exercise_endpoints(url)
        await exercise_catalog(url)
        for command in sorted(CLUSTER_ONLY - {"asking"}):
            server.client.execute_command("ACL", "SETUSER", "aloraserve", f"-{command}")
            with pytest.raises(DirectoryUnavailableError):
                await opened(url).ping()
            server.client.execute_command("ACL", "SETUSER", "aloraserve", f"+{command}")
