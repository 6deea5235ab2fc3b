"""A process's copy of the catalog: lists, filters, and data that are lost."""

from __future__ import annotations

import pytest
from support.catalog_entries import AT, deleted, entry, record, version_of

from aloraserve.adapters.catalog import AdapterCatalog, AdapterRecord, AdapterState, EntryQuery, StoredRecord
from aloraserve.adapters.catalog.memory import MemoryCatalog
from aloraserve.adapters.catalog.view import CatalogView
from aloraserve.errors import DirectoryUnavailableError, InvalidRequestError


class Switched:
    """Stands for one server whose data become another's; ``left`` puts succeed before it is gone."""

    def __init__(self, data: MemoryCatalog) -> None:
        self.data: AdapterCatalog = data
        self.left = 1000

    async def get(self, name: str) -> StoredRecord | None:
        return await self.data.get(name)

    async def put(self, record: AdapterRecord, *, expected: int) -> int:
        self.left -= 1
        if self.left < 0:
            raise DirectoryUnavailableError("gone")
        return await self.data.put(record, expected=expected)

    async def changes(self, since):  # type: ignore[no-untyped-def]
        return await self.data.changes(since)

    async def close(self) -> None:
        pass


def names(view: CatalogView) -> list[str]:
    return [stored.record.name for stored in view]


async def test_what_a_server_lost_is_put_back_by_who_knows_it() -> None:
    full, emptied = MemoryCatalog(), MemoryCatalog()
    server = Switched(full)
    await server.put(record("kept"), expected=0)
    await server.put(record("safety", "1", "2"), expected=0)
    await server.put(record("gone"), expected=0)
    restoring, other, following = (
        CatalogView(server, restores=True),
        CatalogView(server, restores=True),
        CatalogView(server),
    )
    for view in (restoring, other, following):
        await view.refresh()
    server.data = emptied
    await emptied.put(record("kept", "changed"), expected=0)
    await following.refresh()
    assert names(following) == ["gone", "kept", "safety"], "nothing is forgotten meanwhile"
    assert await emptied.get("safety") is None
    await restoring.refresh()
    stored = await emptied.get("gone")
    assert stored is not None
    await emptied.put(deleted(stored.record), expected=stored.revision)
    for view in (other, following, restoring):
        await view.refresh()
        assert view.get("kept") == await emptied.get("kept") == StoredRecord(record("kept", "changed"), 1)
        assert view.get("safety") == await emptied.get("safety")
        assert view.page(EntryQuery(prefix="gone")).entries == [], "what was deleted since stays deleted"


async def test_a_restoration_that_is_interrupted_goes_on() -> None:
    server = Switched(MemoryCatalog())
    for name in ("a", "b", "c"):
        await server.put(record(name), expected=0)
    view = CatalogView(server, restores=True)
    await view.refresh()
    server.data, server.left = MemoryCatalog(), 1
    with pytest.raises(DirectoryUnavailableError):
        await view.refresh()
    assert names(view) == ["a", "b", "c"]
    server.left = 1000
    await view.refresh()
    assert [await server.get(name) is not None for name in ("a", "b", "c")] == [True] * 3


async def test_of_data_that_went_back_in_time_the_newer_wins() -> None:
    server = Switched(MemoryCatalog())
    revision = await server.put(record("a"), expected=0)
    await server.put(record("b"), expected=0)
    lagging = MemoryCatalog()
    await lagging.put(record("a"), expected=0)
    lagging._epoch = (await server.data.changes(CatalogView(server).position)).position.epoch
    await server.put(record("a", "2"), expected=revision)
    view = CatalogView(server, restores=True)
    await view.refresh()
    server.data = lagging
    await view.refresh()
    for name in ("a", "b"):
        assert await lagging.get(name) == view.get(name)
    stored = view.get("a")
    assert stored is not None
    assert stored.record == record("a", "2")


async def test_pages_are_filtered() -> None:
    catalog = MemoryCatalog()
    await catalog.put(
        record("safety", "1", "2").moved([version_of("safety 1")], AdapterState.RETIRED, AT, ""), expected=0
    )
    await catalog.put(deleted(record("gone")), expected=0)
    labelled = entry("rag", kind="alora", labels={"team": "search"})
    await catalog.put(AdapterRecord(name="rag").added(labelled, promote=True), expected=0)
    private = entry("secret", owner="acme", visibility="private")
    await catalog.put(AdapterRecord(name="secret").added(private, promote=True), expected=0)
    view = CatalogView(catalog)
    await view.refresh()

    def found(query: EntryQuery) -> list[str]:
        return [f"{each.name} {each.state}" for each in view.page(query).entries]

    assert found(EntryQuery()) == ["rag available", "safety retired", "safety available", "secret available"]
    assert found(EntryQuery(state=AdapterState.RETIRED)) == ["safety retired"]
    assert found(EntryQuery(state=AdapterState.DELETED)) == ["gone deleted"]
    assert found(EntryQuery(kind="alora")) == ["rag available"]
    assert found(EntryQuery(labels={"team": "search"})) == ["rag available"]
    assert found(EntryQuery(labels={"team": "other"})) == []
    assert found(EntryQuery(owner="acme")) == ["secret available"]
    assert found(EntryQuery(prefix="s", sees_all=False, visible_to="other")) == ["safety retired", "safety available"]
    assert found(EntryQuery(prefix="se", sees_all=False, visible_to="acme")) == ["secret available"]


async def test_a_page_begins_behind_a_version_that_is_gone_by_then() -> None:
    catalog = MemoryCatalog()
    await catalog.put(record("a", "1", "2"), expected=0)
    await catalog.put(record("b"), expected=0)
    view = CatalogView(catalog)
    await view.refresh()
    shown = view.page(EntryQuery(cursor=f"a@{version_of('a 1')}")).entries
    assert [each.version for each in shown] == [version_of("a 2"), version_of("b 1")]
    shown = view.page(EntryQuery(cursor=f"a@{version_of('never')}")).entries
    assert len(shown) == 3, "it may be shown again, and none is passed over"
    shown = view.page(EntryQuery(cursor=f"aa@{version_of('never')}")).entries
    assert [each.name for each in shown] == ["b"]


@pytest.mark.parametrize(
    "query", [EntryQuery(limit=0), EntryQuery(limit=1001), EntryQuery(cursor="x"), EntryQuery(cursor="@")]
)
async def test_a_wrong_page_is_refused(query: EntryQuery) -> None:
    with pytest.raises(InvalidRequestError, match="accepted"):
        CatalogView(MemoryCatalog()).page(query)
