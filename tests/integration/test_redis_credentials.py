"""Users and passwords that are replaced while calls are under way, on a real server with ACLs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from support.redis_deployments import Cluster, Server, wait_until

from aloraserve.errors import DirectoryUnavailableError
from aloraserve.redis import channel as channel_module
from aloraserve.redis.script_client import ScriptClient
from aloraserve.redis.scripts import Script, ScriptCall

ECHO = Script("return {KEYS[1], ARGV[1]}")
CALL = ScriptCall(ECHO, ("k",), ("v",))


@pytest.fixture(scope="module", params=["server", "cluster"])
def servers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, list[Server]]]:
    """A URL without a login, and the servers behind it."""
    folder = tmp_path_factory.mktemp(request.param)
    made: Any = Cluster(folder) if request.param == "cluster" else Server(folder)
    try:
        made.start()
        yield made.url, made.primaries if request.param == "cluster" else [made]
    finally:
        made.stop() if request.param == "cluster" else made.kill()


@pytest.fixture
async def opened(
    servers: tuple[str, list[Server]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[ScriptClient, Path]]:
    """A client that reads its login from a file, and the file."""
    url, _ = servers
    path = tmp_path / "login"
    rotate(path, "old", "first")
    set_user(servers[1], "old", "first")
    monkeypatch.setattr(channel_module, "LOGIN_CHECKED_S", 0.02)
    client = ScriptClient.from_url(f"{url}?credentials_file={path}", timeout_s=5.0, max_calls=8, part="test")
    yield client, path
    await client.close()
    for user in ("old", "new", "newer"):
        delete_user(servers[1], user)


def rotate(path: Path, user: str, password: str) -> None:
    """Replace the file, as whoever rotates a secret does."""
    fresh = path.with_suffix(".fresh")
    fresh.write_text(f"{user}:{password}\n")
    fresh.replace(path)


def set_user(servers: list[Server], user: str, password: str) -> None:
    for server in servers:
        server.client.execute_command("ACL", "SETUSER", user, "reset", "on", f">{password}", "~*", "+@all")


def delete_user(servers: list[Server], user: str) -> None:
    """Delete a user; the server ends its connections."""
    for server in servers:
        server.client.execute_command("ACL", "DELUSER", user)


def users(client: Redis) -> set[str]:
    """Return the users of the connections that run scripts."""
    return {one["user"] for one in client.client_list() if "eval" in one["cmd"] or one["cmd"] == "auth"}


async def test_open_connections_log_in_again_under_load_and_no_call_fails(
    servers: tuple[str, list[Server]], opened: tuple[ScriptClient, Path]
) -> None:
    client, path = opened
    done = asyncio.Event()

    async def keep_calling() -> int:
        count = 0
        while not done.is_set():
            assert await client.run(CALL) == [b"k", b"v"]
            count += 1
        return count

    callers = [asyncio.create_task(keep_calling()) for _ in range(4)]
    for user in ("new", "newer"):
        set_user(servers[1], user, "second")
        rotate(path, user, "second")
        await asyncio.to_thread(wait_until, lambda user=user: any(user in users(one.client) for one in servers[1]))
        await asyncio.to_thread(wait_until, lambda user=user: all(users(one.client) <= {user} for one in servers[1]))
        # The user of before can go now: nobody is logged in as it any more.
        delete_user(servers[1], "old" if user == "new" else "new")
    done.set()
    assert all(await asyncio.gather(*callers))


async def test_a_connection_that_ends_is_opened_again_with_the_files_login_of_now(
    servers: tuple[str, list[Server]], opened: tuple[ScriptClient, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_module, "LOGIN_CHECKED_S", 60.0)
    client, path = opened
    await client.run(CALL)
    set_user(servers[1], "new", "second")
    rotate(path, "new", "second")
    delete_user(servers[1], "old")
    try:
        await client.run(CALL)
    except DirectoryUnavailableError:
        # The one that met the end of the connection.
        assert await client.run(CALL) == [b"k", b"v"]


async def test_a_login_that_the_server_does_not_know_yet_costs_nothing(
    servers: tuple[str, list[Server]], opened: tuple[ScriptClient, Path]
) -> None:
    client, path = opened
    await client.run(CALL)
    rotate(path, "new", "second")
    for _ in range(20):
        assert await client.run(CALL) == [b"k", b"v"]
        await asyncio.sleep(0.01)
    set_user(servers[1], "new", "second")
    await asyncio.to_thread(wait_until, lambda: any("new" in users(one.client) for one in servers[1]))
    assert await client.run(CALL) == [b"k", b"v"]


async def test_a_file_that_is_not_there_is_an_unavailable_directory_that_says_so(
    servers: tuple[str, list[Server]], tmp_path: Path
) -> None:
    url = f"{servers[0]}?credentials_file={tmp_path / 'none'}"
    client = ScriptClient.from_url(url, timeout_s=1.0, max_calls=8, part="test")
    with pytest.raises(DirectoryUnavailableError, match=r"No such file or directory: .*none"):
        await client.run(CALL)
    await client.close()
