"""Several gateways and replicas over one catalog in a real server: what each serves, when, and what a loss does."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from support.catalog_fleet import CatalogProcess
from support.peft_adapters import BASE, write_peft_adapter

from aloraserve.adapters import AdapterLimits, AdapterReader, FolderRegistry
from aloraserve.adapters.catalog.redis import RedisCatalog
from aloraserve.adapters.served import resolved
from aloraserve.errors import DirectoryUnavailableError, RetiredAdapterError, UnknownModelError

Open = Callable[..., Any]
FEED_S = 2.0
"""Within which every process has a new version."""


@pytest.fixture
async def open_process(redis_server: Any, tmp_path: Path) -> AsyncIterator[Open]:
    """Open a gateway or a replica with a connection of its own."""
    async with AsyncExitStack() as stack:

        async def opened(root: Path = tmp_path, **options: Any) -> CatalogProcess:
            catalog = RedisCatalog.from_url(redis_server.url, namespace="test", timeout_s=0.5)
            return await CatalogProcess(catalog, root, **options).begun(stack)

        yield opened


async def eventually(check: Callable[[], bool], within_s: float = FEED_S) -> float:
    began_at = time.monotonic()
    while not check():
        assert time.monotonic() - began_at < within_s, f"not within {within_s:g} s"
        await asyncio.sleep(0.01)
    return time.monotonic() - began_at


async def no_look() -> bool:
    raise AssertionError("what the folder has is not looked for in the catalog")


def client(server: Any) -> Redis:
    return Redis(unix_socket_path=server.url.removeprefix("unix://"))


def flush(server: Any) -> None:
    client(server).flushall()


async def test_every_process_has_a_new_version_in_time(open_process: Open) -> None:
    first, *others = [await open_process(backup=number < 2) for number in range(4)]
    running = [asyncio.create_task(each.registry.run()) for each in others]
    entry = await first.register("safety")
    assert first.digest("safety") == entry.version, "who registered it serves it at once"
    await eventually(lambda: all(each.listed() == ["safety"] for each in others))
    assert {each.digest("safety") for each in others} == {entry.version}
    assert {version.path for each in others for version in each.registry.all()} == {first.store.get(entry.version)}
    for task in running:
        task.cancel()


async def test_a_call_is_ahead_of_a_replica_that_has_not_looked_yet(open_process: Open) -> None:
    gateway, replica = await open_process(), await open_process(backup=False, poll_s=3600.0)
    for weight in (1.0, 2.0):
        entry = await gateway.register("safety", weight)
        await replica.catalog.refresh() if weight == 1.0 else None
        found = await asyncio.gather(*(replica.registry.find(entry.ref) for _ in range(8)))
        assert found == [gateway.registry.resolve("safety")] * 8, "however lately it has looked"


async def test_a_name_is_called_at_once_through_another_gateway_than_it_was_registered_through(
    open_process: Open,
) -> None:
    one, two = await open_process(), await open_process(poll_s=3600.0)
    entry = await one.register("safety")
    with pytest.raises(UnknownModelError):
        two.registry.resolve("safety")
    found = await asyncio.gather(*(resolved(two.registry, "safety") for _ in range(8)))
    assert {version.digest for version in found} == {entry.version}


async def test_names_that_nobody_has_cost_few_looks(open_process: Open) -> None:
    gateway = await open_process(poll_s=3600.0)
    looks = 0
    look = gateway.catalog.view.refresh

    async def counted() -> None:
        nonlocal looks
        looks += 1
        await look()

    gateway.catalog.view.refresh = counted  # type: ignore[method-assign]
    asked = [resolved(gateway.registry, f"nobody-{number}") for number in range(200)]
    assert all(isinstance(error, UnknownModelError) for error in await asyncio.gather(*asked, return_exceptions=True))
    assert 1 <= looks <= 2


async def test_what_nothing_has_is_collected_also_without_a_folder_of_adapters(
    open_process: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aloraserve.adapters.catalog.registry.USE_EVERY_S", 0.0)
    gateway = await open_process(poll_s=0.01)
    entry = await gateway.register("safety")
    gateway.store.release(entry.version)
    left = gateway.store.stage()
    for path in (left, tmp_path / "store" / entry.version):
        os.utime(path, (0, 0))
    running = asyncio.create_task(gateway.registry.run())
    await eventually(lambda: not left.exists())
    running.cancel()
    assert gateway.store.has(entry.version), "it is referred to again, before anything is collected"


async def test_an_alias_switches_for_both_gateways_and_back(open_process: Open) -> None:
    gateways = [await open_process(), await open_process()]
    one, two = await gateways[0].register("safety"), await gateways[0].register("safety", 2.0, promote=False)
    await gateways[0].manager.point("safety@prod", one.shown)
    for version, change in (
        (two, lambda: gateways[1].manager.point("safety@prod", two.shown)),
        (one, lambda: gateways[0].manager.roll_back("safety@prod")),
    ):
        await change()
        for gateway in gateways:
            await gateway.catalog.refresh()
            assert gateway.digest("safety@prod") == version.version
            assert gateway.digest("safety") == one.version
            assert gateway.digest(two.shown) == two.version
            assert gateway.listed() == ["safety", "safety@prod"]
            root = next(served.root for served in gateway.registry.listed() if served.name == "safety@prod")
            assert root == version.shown


async def test_a_conversation_stays_with_its_canary_on_both_gateways(open_process: Open) -> None:
    gateways = [await open_process(), await open_process()]
    one, two = await gateways[0].register("safety"), await gateways[0].register("safety", 2.0, promote=False)
    await gateways[0].manager.canary("safety", two.shown, 0.3)
    await gateways[1].catalog.refresh()
    chosen = [[gateway.digest("safety", key=str(key)) for key in range(200)] for gateway in gateways]
    assert chosen[0] == chosen[1]
    assert 30 < chosen[0].count(two.version) < 90
    assert set(chosen[0]) == {one.version, two.version}


async def test_a_retired_version_takes_no_calls_and_stays_for_those_in_flight(open_process: Open) -> None:
    gateway, replica = await open_process(), await open_process(backup=False)
    entry = await gateway.register("safety")
    await replica.catalog.refresh()
    held = replica.registry.resolve("safety")
    await gateway.manager.retire("safety", reason="it is biased")
    with pytest.raises(RetiredAdapterError, match="model 'safety' is retired and takes no calls: it is biased"):
        gateway.registry.resolve("safety")
    assert gateway.listed() == []
    for change in (lambda: replica.catalog.refresh(), lambda: gateway.manager.delete("safety")):
        await change()
        await replica.catalog.refresh()
        assert await replica.registry.find(entry.ref) == held
        assert held.path.is_dir()
    with pytest.raises(UnknownModelError, match="model 'safety' is not served; served are base"):
        gateway.registry.resolve("safety")


async def test_a_private_adapter_is_unknown_to_others(open_process: Open) -> None:
    gateway = await open_process()
    entry = await gateway.register("secret", owner="acme", visibility="private")
    await gateway.register("shared", owner="acme")
    await gateway.manager.point("secret@prod", "secret")
    assert gateway.listed("acme") == ["secret", "secret@prod", "shared"]
    assert gateway.digest("secret@prod", tenant="acme") == entry.version
    for tenant in ("other", None):
        assert gateway.listed(tenant) == ["shared"]
        assert not gateway.registry.sees(tenant, "secret")
        said = []
        for name in ("secret", "secret@prod", entry.shown, "nobody", "no body"):
            with pytest.raises(UnknownModelError) as caught:
                gateway.registry.resolve(name, tenant=tenant)
            said.append(caught.value.message.replace(repr(name), "?"))
        assert set(said) == {"model ? is not served; served are base, shared"}
    await gateway.manager.retire("secret", reason="at the tenant's wish")
    with pytest.raises(UnknownModelError) as caught:
        gateway.registry.resolve("secret", tenant="other")
    assert type(caught.value) is UnknownModelError


async def test_what_is_registered_wins_over_the_folder(
    open_process: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped = tmp_path / "dropped"
    dropped.mkdir()
    write_peft_adapter(dropped / "safety", weight=5.0)
    write_peft_adapter(dropped / "other", weight=6.0)
    folder = FolderRegistry(dropped, AdapterReader(base=BASE, base_names=("base",), max_rank=8))
    gateway = await open_process(folder=folder)
    before = gateway.digest("safety")
    dropped_version = gateway.registry.resolve("safety")
    with monkeypatch.context() as patched:
        patched.setattr(gateway.catalog.view, "refresh", no_look)
        assert await gateway.registry.find(dropped_version.ref) == dropped_version
    entry = await gateway.register("safety")
    assert gateway.listed() == ["other", "safety"]
    assert gateway.digest("safety") == entry.version != before
    assert [(each.name, each.reason) for each in gateway.registry.refused()] == [
        ("safety in adapters_dir", "the catalog has an adapter of this name")
    ]
    with pytest.raises(UnknownModelError, match="served are base, other, safety"):
        gateway.registry.resolve("nobody")
    await gateway.manager.delete("safety", force=True)
    assert gateway.digest("safety") == before
    assert gateway.registry.refused() == ()
    await gateway.register("safety", owner="acme", visibility="private")
    [hidden] = gateway.registry.refused()
    seen = {tenant: gateway.registry.sees(tenant, hidden.name) for tenant in ("acme", "other", None)}
    assert seen == {"acme": True, "other": False, None: False}, "the reason tells that the private one is there"


async def test_a_server_that_is_emptied_is_filled_again(open_process: Open, redis_server: Any) -> None:
    gateway, replica = await open_process(), await open_process(backup=False)
    entry = await gateway.register("safety")
    await gateway.manager.point("safety@prod", "safety")
    await replica.catalog.refresh()
    flush(redis_server)
    await replica.catalog.refresh()
    assert replica.listed() == ["safety", "safety@prod"], "nothing is forgotten meanwhile"
    await gateway.catalog.refresh()
    newcomer = await open_process(backup=False)
    for process in (gateway, replica, newcomer):
        await process.catalog.refresh()
        assert process.listed() == ["safety", "safety@prod"]
        assert process.digest("safety") == entry.version


async def test_a_restart_with_an_empty_server_keeps_what_was_registered(
    redis_server: Any, tmp_path: Path, open_process: Open
) -> None:
    catalog = RedisCatalog.from_url(redis_server.url, namespace="test")
    async with AsyncExitStack() as stack:
        gateway = await CatalogProcess(catalog, tmp_path).begun(stack)
        entry = await gateway.register("safety")
        await gateway.register("gone")
        await gateway.manager.delete("gone", force=True)
    flush(redis_server)
    again = await open_process()
    assert again.listed() == ["safety"]
    assert again.digest("safety") == entry.version
    assert (await again.manager.entry("safety")).history == entry.history


async def test_a_server_that_is_away_costs_changes_and_no_call(open_process: Open, redis_server: Any) -> None:
    gateway = await open_process()
    entry = await gateway.register("safety")
    redis_server.kill()
    await gateway.catalog.refresh()
    assert gateway.digest("safety") == entry.version
    started = await open_process()
    assert started.listed() == ["safety"], "the copy on the disk is served until the server answers"


async def test_a_copy_that_is_damaged_is_passed_over(open_process: Open, tmp_path: Path, redis_server: Any) -> None:
    (await open_process()).listed()
    for content in (b"", b"{}", b"\x00" * 100, json.dumps({"format": "aloraserve-catalog", "schema": 9}).encode()):
        (tmp_path / "catalog.json").write_bytes(content)
        assert (await open_process()).listed() == []


async def test_what_engines_cannot_load_is_refused_and_says_why(open_process: Open, tmp_path: Path) -> None:
    gateway = await open_process()
    entry = await gateway.register("safety")
    small = await open_process(limits=AdapterLimits(frozenset(["q_proj"]), 8), backup=False)
    elsewhere = await open_process(tmp_path / "other machine", backup=False)
    for process, why in ((small, "it changes down_proj"), (elsewhere, "its files are not in the adapter store")):
        assert process.listed() == []
        assert [refused.name for refused in process.registry.refused()] == ["safety"]
        assert why in process.registry.refused()[0].reason
        with pytest.raises(UnknownModelError, match=f"model 'safety' cannot be served now: {why}"):
            process.registry.resolve("safety")
    assert await elsewhere.registry.find(entry.ref) is None


@pytest.mark.parametrize("content", [b"{}", b"\xff", b'{"name": "safety", "of_a_later_release": 1}'])
async def test_a_record_that_cannot_be_read_hides_no_other(
    open_process: Open, redis_server: Any, content: bytes
) -> None:
    gateway = await open_process()
    await gateway.register("alpha")
    await gateway.register("safety")
    server = client(redis_server)
    key = "{aloraserve:test}:catalog1:records"
    revision = server.hget(key, "safety").split()[0]  # type: ignore[union-attr]
    server.hset(key, "safety", revision + b" " + content)
    newcomer = await open_process(backup=False)
    assert newcomer.listed() == ["alpha"]
    with pytest.raises(DirectoryUnavailableError, match="has a record that cannot be read"):
        await newcomer.manager.get("safety")
