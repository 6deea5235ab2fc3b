"""What every adapter registry does, run against each backend."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import pytest
from support.peft_adapters import BASE, read_adapter, write_peft_adapter

from aloraserve.adapters import (
    AdapterLimits,
    AdapterReader,
    AdapterRef,
    AdapterRegistry,
    AdapterStore,
    FolderRegistry,
    RefusedAdapter,
    RegistryChange,
    StaticRegistry,
)
from aloraserve.adapters.catalog import AdapterEntry
from aloraserve.adapters.catalog.ingested import Ingest
from aloraserve.adapters.catalog.memory import MemoryCatalog
from aloraserve.adapters.catalog.registry import CatalogRegistry
from aloraserve.adapters.catalog.view import CatalogView
from aloraserve.adapters.management import AdapterManager, RegistrationRequest, Usage
from aloraserve.adapters.management.intake import StoreIntake
from aloraserve.adapters.sources import SourceFetcher, SourcePolicy
from aloraserve.adapters.subfolder import BAD_READINGS
from aloraserve.errors import AdapterConflictError, InvalidAdapterError, UnknownModelError

pytestmark = pytest.mark.untimed


class Source(Protocol):
    """A registry and whoever changes what it serves."""

    registry: AdapterRegistry
    rank_problem: str

    async def write(self, name: str, weight: float = 1.0, rank: int = 4) -> None: ...

    async def remove(self, name: str) -> None: ...


class StaticSource:
    """Publishes what the test writes."""

    rank_problem = "r 9; accepted: an integer from 1 to 8"

    def __init__(self, root: Path) -> None:
        self._root = root
        self.registry = StaticRegistry(base_names=["base"])

    async def write(self, name: str, weight: float = 1.0, rank: int = 4) -> None:
        write_peft_adapter(self._root / name, weight=weight, rank=rank)
        self._publish()

    async def remove(self, name: str) -> None:
        shutil.rmtree(self._root / name)
        self._publish()

    def _publish(self) -> None:
        versions, refused = [], []
        for folder in self._root.iterdir():
            try:
                versions.append(read_adapter(folder, base=BASE, max_rank=8))
            except InvalidAdapterError as error:
                refused.append(RefusedAdapter(folder.name, error.message))
        self.registry.publish(versions, refused)


class FolderSource:
    """Edits the folder and has it read until the change counts."""

    rank_problem = "r 9; accepted: an integer from 1 to 8"

    def __init__(self, root: Path, snapshots: Path) -> None:
        self._root = root
        self.registry = FolderRegistry(
            root,
            AdapterReader(base=BASE, base_names=("base",), max_rank=8, store=AdapterStore(snapshots)),
        )

    async def write(self, name: str, weight: float = 1.0, rank: int = 4) -> None:
        write_peft_adapter(self._root / name, weight=weight, rank=rank)
        await self._read()

    async def remove(self, name: str) -> None:
        shutil.rmtree(self._root / name)
        await self._read()

    async def _read(self) -> None:
        for _ in range(BAD_READINGS):
            await self.registry.read()


class CatalogSource:
    """Registers what the test writes; a rank that the check accepts may be more than the engines have room for."""

    rank_problem = "its rank is 9, but the engines were started for adapters of rank 8 at most"

    def __init__(self, root: Path, snapshots: Path) -> None:
        self._root = root
        catalog, store = MemoryCatalog(), AdapterStore(snapshots)
        view = CatalogView(catalog)
        limits = AdapterLimits(frozenset(BASE.linears()), 8)
        self.registry = CatalogRegistry(catalog, view, Ingest(store, "model", limits), base_names=["base"])
        reader = AdapterReader(base=BASE, base_names=("base",), max_rank=64, store=store)
        self._manager = AdapterManager(
            catalog,
            view,
            StoreIntake(SourceFetcher(SourcePolicy(any_folder=True), store.stage), lambda: reader, store),
            NoUsage(),
            base="model",
            on_change=self.registry.catch_up,
        )

    async def write(self, name: str, weight: float = 1.0, rank: int = 4) -> None:
        folder = write_peft_adapter(self._root / name, weight=weight, rank=rank)
        try:
            await (await self._manager.register(RegistrationRequest(name, str(folder)))).finished()
        except AdapterConflictError:
            version = read_adapter(folder, base=BASE, max_rank=64)
            await self._manager.point(name, f"{name}@{version.digest}")

    async def remove(self, name: str) -> None:
        await self._manager.delete(name, force=True)


class NoUsage:
    async def of(self, entry: AdapterEntry) -> Usage:
        return Usage()


@pytest.fixture(params=["static", "folder", "catalog"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    root = tmp_path / "adapters"
    root.mkdir()
    if request.param == "static":
        return StaticSource(root)
    return (FolderSource if request.param == "folder" else CatalogSource)(root, tmp_path / "snapshots")


def names(registry: AdapterRegistry) -> tuple[list[str], list[str]]:
    return [version.name for version in registry.all()], [adapter.name for adapter in registry.refused()]


async def following(changes: AsyncIterator[RegistryChange]) -> RegistryChange:
    async with asyncio.timeout(60):
        return await anext(changes)


async def test_an_empty_registry_serves_the_base_model_alone(source: Source) -> None:
    assert names(source.registry) == ([], [])
    with pytest.raises(UnknownModelError, match="model 'safety' is not served; served are base") as caught:
        source.registry.resolve("safety")
    assert caught.value.param == "model"


async def test_added_adapters_are_served_sorted_by_name(source: Source) -> None:
    await source.write("zeta")
    await source.write("alpha")
    assert names(source.registry) == (["alpha", "zeta"], [])
    assert source.registry.resolve("zeta") is source.registry.all()[1]
    with pytest.raises(UnknownModelError, match="served are base, alpha, zeta"):
        source.registry.resolve("beta")


async def test_a_changed_adapter_is_another_version_with_another_number_and_name_in_engines(source: Source) -> None:
    await source.write("safety")
    before = source.registry.resolve("safety")
    await source.write("safety", weight=2.0)
    after = source.registry.resolve("safety")
    assert before.digest != after.digest
    assert before.engine_id != after.engine_id
    assert before.engine_name != after.engine_name
    await source.write("safety")
    assert source.registry.resolve("safety").engine_id == before.engine_id


async def test_numbers_do_not_depend_on_what_else_is_served(source: Source) -> None:
    await source.write("safety")
    alone = source.registry.resolve("safety").engine_id
    await source.write("alpha", weight=2.0)
    assert source.registry.resolve("safety").engine_id == alone
    assert source.registry.resolve("alpha").engine_id != alone
    assert 0 < alone < 2**31


async def test_an_adapter_that_turns_bad_is_refused_and_hides_no_other(source: Source) -> None:
    await source.write("safety")
    await source.write("alpha")
    await source.write("safety", rank=9)
    assert names(source.registry) == (["alpha"], ["safety"])
    assert source.rank_problem in source.registry.refused()[0].reason
    with pytest.raises(UnknownModelError):
        source.registry.resolve("safety")
    await source.write("safety")
    assert names(source.registry) == (["alpha", "safety"], [])


async def test_a_removed_adapter_is_unknown(source: Source) -> None:
    await source.write("safety")
    await source.remove("safety")
    assert names(source.registry) == ([], [])
    with pytest.raises(UnknownModelError):
        source.registry.resolve("safety")


async def test_a_version_stays_to_be_had_when_another_took_its_place(source: Source) -> None:
    await source.write("safety")
    first = source.registry.resolve("safety")
    await source.write("safety", weight=2.0)
    await source.remove("safety")
    assert await source.registry.find(first.ref) == first


async def test_a_version_that_never_was_is_not_found(source: Source) -> None:
    await source.write("safety")
    known = source.registry.resolve("safety").ref
    assert await source.registry.find(known) == source.registry.resolve("safety")
    assert await source.registry.find(AdapterRef("safety", "lora", "0" * 64)) is None
    assert await source.registry.find(AdapterRef("../safety", "lora", known.digest)) is None


async def test_watchers_see_first_what_is_served_and_then_each_change(source: Source) -> None:
    await source.write("safety")
    await source.write("bad", rank=9)
    first = source.registry.resolve("safety")
    changes, late = source.registry.watch(), source.registry.watch()
    begin = await following(changes)
    assert (begin.added, begin.removed) == ((first,), ())
    assert [adapter.name for adapter in begin.refused] == ["bad"]
    await source.write("safety", weight=2.0)
    second = source.registry.resolve("safety")
    change = await following(changes)
    assert (change.added, change.removed) == ((second,), (first,))
    await source.remove("safety")
    await source.remove("bad")
    gone = await following(changes)
    assert (gone.added, gone.removed, gone.refused) == ((), (second,), ())
    assert await following(late) == RegistryChange(), "late: the first is what is served when it begins to look"


async def test_a_watcher_waits_while_nothing_changes(source: Source) -> None:
    await source.write("safety")
    changes = source.registry.watch()
    await following(changes)
    waiting = asyncio.ensure_future(anext(changes))  # type: ignore[arg-type]
    await source.write("safety")
    assert not waiting.done(), "the same content again is no change"
    await source.write("alpha")
    async with asyncio.timeout(60):
        assert [version.name for version in (await waiting).added] == ["alpha"]


async def test_following_the_source_ends_when_it_is_cancelled(source: Source) -> None:
    task = asyncio.create_task(source.registry.run())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
