"""What every catalog does, run against each backend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest
from support.catalog_entries import AT, deleted, entry, record
from support.redis_fixtures import url_of
from support.redis_servers import OTHER_SERVERS

from aloraserve.adapters.catalog import AdapterCatalog, AdapterState, CatalogPosition, EntryQuery, StoredRecord
from aloraserve.adapters.catalog.memory import MemoryCatalog
from aloraserve.adapters.catalog.redis import RedisCatalog
from aloraserve.adapters.catalog.view import CatalogView
from aloraserve.errors import AdapterChangedError, AdapterConflictError
from aloraserve.records import PAGE_RECORDS

Make = Callable[..., AdapterCatalog]

pytestmark = pytest.mark.untimed


@pytest.fixture(params=["memory", "redis", "declared-keys", "cluster", *OTHER_SERVERS])
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    url = None if request.param == "memory" else url_of(request, request.param)
    async with AsyncExitStack() as stack:

        def build(**options: int) -> AdapterCatalog:
            catalog: AdapterCatalog = (
                RedisCatalog.from_url(url, namespace=request.node.name, timeout_s=5.0, **options)
                if url
                else MemoryCatalog(**options)
            )
            stack.push_async_callback(catalog.close)
            return catalog

        yield build


@pytest.fixture
def catalog(make: Make) -> AdapterCatalog:
    return make()


async def everything(catalog: AdapterCatalog, since: CatalogPosition | None = None) -> tuple[list[StoredRecord], bool]:
    """Return all changes behind a position, and whether reading had to begin again."""
    changes = await catalog.changes(since or CatalogPosition())
    found, restarts = list(changes.records), changes.restarts
    while changes.has_more:
        changes = await catalog.changes(changes.position)
        assert not changes.restarts
        found += changes.records
    return found, restarts


async def test_an_empty_catalog_has_nothing(catalog: AdapterCatalog) -> None:
    assert await catalog.get("safety") is None
    assert await catalog.changes(CatalogPosition()) == await catalog.changes(CatalogPosition())
    assert await everything(catalog) == ([], False)


async def test_a_record_is_kept_as_it_was_put(catalog: AdapterCatalog) -> None:
    first = record("safety", "1", "2").added(
        entry("safety", "3", kind="alora", labels={"team": "trust", "tier": ""}), promote=False
    )
    revision = await catalog.put(first, expected=0)
    assert await catalog.get("safety") == StoredRecord(first, revision)
    second = record("safety", "4")
    later = await catalog.put(second, expected=revision)
    assert later > revision
    assert await catalog.get("safety") == StoredRecord(second, later)


async def test_of_two_that_change_the_same_record_one_wins_and_the_other_learns_it(catalog: AdapterCatalog) -> None:
    outcomes = await asyncio.gather(
        *(catalog.put(record("safety", content), expected=0) for content in "12345678"), return_exceptions=True
    )
    won = [outcome for outcome in outcomes if isinstance(outcome, int)]
    assert len(won) == 1
    lost = [outcome for outcome in outcomes if isinstance(outcome, AdapterChangedError)]
    assert len(lost) == 7
    assert "'safety' was changed by another call meanwhile" in lost[0].message
    stored = await catalog.get("safety")
    assert stored is not None
    assert stored.revision == won[0]
    with pytest.raises(AdapterChangedError):
        await catalog.put(record("safety"), expected=won[0] + 1)
    assert await catalog.get("safety") == stored


async def test_changes_show_each_name_once_with_its_last_change(catalog: AdapterCatalog) -> None:
    first = await catalog.put(record("alpha"), expected=0)
    await catalog.put(record("beta"), expected=0)
    last = await catalog.put(record("alpha", "1", "2"), expected=first)
    found, _ = await everything(catalog)
    assert [stored.record.name for stored in found] == ["beta", "alpha"]
    assert found[-1] == StoredRecord(record("alpha", "1", "2"), last)
    position = (await catalog.changes(CatalogPosition())).position
    assert await everything(catalog, position) == ([], False)
    await catalog.put(record("gamma"), expected=0)
    later, restarts = await everything(catalog, position)
    assert [stored.record.name for stored in later] == ["gamma"]
    assert not restarts


async def test_changes_come_in_pages_and_none_is_passed_over(catalog: AdapterCatalog) -> None:
    names = [f"adapter-{number:03}" for number in range(PAGE_RECORDS + 7)]
    for name in names:
        await catalog.put(record(name), expected=0)
    page = await catalog.changes(CatalogPosition())
    assert len(page.records) == PAGE_RECORDS
    assert page.has_more
    # One of the first page changes while the second is still to be read.
    await catalog.put(record(names[3], "2"), expected=page.records[3].revision)
    rest = await catalog.changes(page.position)
    assert [stored.record.name for stored in rest.records] == [*names[PAGE_RECORDS:], names[3]]
    assert not rest.has_more


async def test_data_that_are_lost_are_another_epoch(make: Make, catalog: AdapterCatalog) -> None:
    await catalog.put(record("safety"), expected=0)
    position = (await catalog.changes(CatalogPosition())).position
    for other in (
        CatalogPosition("another", position.revision),
        CatalogPosition(position.epoch, position.revision + 1),
    ):
        found, restarts = await everything(catalog, other)
        assert restarts
        assert [stored.record.name for stored in found] == ["safety"]


async def test_deleted_names_are_remembered_and_then_forgotten(make: Make) -> None:
    catalog = make(max_names=3, max_deleted=2)
    seen: list[CatalogPosition] = []
    for name in ("a", "b", "c"):
        revision = await catalog.put(record(name), expected=0)
        seen.append((await catalog.changes(CatalogPosition())).position)
        await catalog.put(deleted(record(name)), expected=revision)
    assert await catalog.get("a") is None
    stored = await catalog.get("b")
    assert stored is not None
    assert stored.record.is_deleted
    found, restarts = await everything(catalog, seen[0])
    assert restarts, "it has not seen that the first was deleted, and nothing says so any more"
    assert [each.record.name for each in found] == ["b", "c"]
    found, restarts = await everything(catalog, seen[1])
    assert not restarts
    assert [each.record.name for each in found] == ["b", "c"]


async def test_a_name_may_come_back(make: Make) -> None:
    catalog = make(max_names=1, max_deleted=1)
    revision = await catalog.put(record("a"), expected=0)
    revision = await catalog.put(deleted(record("a")), expected=revision)
    await catalog.put(record("a", "2"), expected=revision)
    stored = await catalog.get("a")
    assert stored is not None
    assert not stored.record.is_deleted
    with pytest.raises(AdapterConflictError, match="has 1 adapters, the most"):
        await catalog.put(record("b"), expected=0)
    assert await catalog.get("b") is None


async def test_a_record_that_is_too_long_is_refused(catalog: AdapterCatalog) -> None:
    long = record("safety", *map(str, range(60)))
    for _ in range(30):
        long = long.moved([each.version for each in long.versions], AdapterState.AVAILABLE, AT, "x" * 300)
    with pytest.raises(AdapterConflictError, match="bytes in the catalog; 524288 are accepted"):
        await catalog.put(long, expected=0)
    assert await catalog.get("safety") is None


async def test_two_views_list_alike_and_in_pages(catalog: AdapterCatalog) -> None:
    for number in range(30):
        await catalog.put(record(f"adapter-{number:02}", "1", "2"), expected=0)
    views = CatalogView(catalog), CatalogView(catalog)
    await views[0].refresh()
    await catalog.put(record("zeta"), expected=0)
    for view in views:
        await view.refresh()
        found, query = [], EntryQuery(limit=7)
        while True:
            page = view.page(query)
            found += page.entries
            if not page.next:
                break
            query = EntryQuery(limit=7, cursor=page.next)
        assert [each.name for each in found] == [f"adapter-{n // 2:02}" for n in range(60)] + ["zeta"]
        assert len({each.version for each in found}) == 61
    assert views[0].page(EntryQuery(limit=1000)) == views[1].page(EntryQuery(limit=1000))
