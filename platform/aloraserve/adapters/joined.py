"""Two registries as one: the catalog, and the folder that adapters are dropped into."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from aloraserve.adapters.base import (
    AdapterRef,
    AdapterRegistry,
    AdapterVersion,
    RefusedAdapter,
    RegistryChange,
    ServedName,
)
from aloraserve.adapters.catalog.registry import CatalogRegistry
from aloraserve.adapters.served import Served, ServedFeed, unknown_model
from aloraserve.errors import UnknownModelError

_HIDDEN = " in adapters_dir"
"""Behind the name of what is refused because the catalog has that name."""


class JoinedRegistry:
    """See :class:`~aloraserve.adapters.base.AdapterRegistry`. For one event loop.

    A name that the catalog has is the catalog's, for every tenant: an adapter of the folder with that name is refused,
    and served once the name is deleted from the catalog.

    Args:
        catalog: what was registered.
        folder: what lies in the folder.
        base_names: names of the base model, for messages.
    """

    def __init__(self, catalog: CatalogRegistry, folder: AdapterRegistry, *, base_names: Sequence[str] = ()) -> None:
        self.catalog = catalog
        self._folder = folder
        self._base_names = base_names
        self._made_of: object = None
        self._made = Served()
        self._feed = ServedFeed(self._current())

    def resolve(self, name: str, *, tenant: str | None = None, key: str = "") -> AdapterVersion:
        """See the contract."""
        version = self.catalog.look_up(name, tenant=tenant, key=key)
        if version is None and not self.catalog.knows(name):
            with contextlib.suppress(UnknownModelError):
                dropped = self._folder.resolve(name, tenant=tenant, key=key)
                version = None if self.catalog.has_number(dropped) else dropped
        if version is None:
            raise unknown_model(name, [*self._base_names, *(each.name for each in self.listed(tenant))])
        return version

    async def look_again(self) -> None:
        """See the contract."""
        await self.catalog.look_again()

    def listed(self, tenant: str | None = None) -> Sequence[ServedName]:
        """See the contract."""
        dropped = tuple(each for each in self._folder.listed(tenant) if not self.catalog.knows(each.name))
        catalogued = self.catalog.listed(tenant)
        return sorted((*catalogued, *dropped), key=lambda each: each.name) if dropped else catalogued

    def sees(self, tenant: str | None, name: str) -> bool:
        """See the contract."""
        return self.catalog.sees(tenant, name.removesuffix(_HIDDEN))

    async def begin(self) -> None:
        """See the contract."""
        await self._folder.begin()
        await self.catalog.begin()
        self._feed.publish(self._current())

    async def find(self, ref: AdapterRef) -> AdapterVersion | None:
        """See the contract; what is served, in the folder too, costs no look at the catalog."""
        served = self._current().versions.get(ref.engine_name)
        return served or await self.catalog.find(ref) or await self._folder.find(ref)

    def all(self) -> tuple[AdapterVersion, ...]:
        """See the contract."""
        return tuple(self._current().versions.values())

    def refused(self) -> tuple[RefusedAdapter, ...]:
        """See the contract."""
        return self._current().refused

    def watch(self) -> AsyncIterator[RegistryChange]:
        """See the contract."""
        return self._feed.watch()

    async def run(self) -> None:
        """See the contract."""
        parts: tuple[AdapterRegistry, ...] = (self.catalog, self._folder)
        async with asyncio.TaskGroup() as tasks:
            for part in parts:
                tasks.create_task(part.run())
                tasks.create_task(self._follow(part))

    async def close(self) -> None:
        """See the contract."""
        await self.catalog.close()
        await self._folder.close()

    async def _follow(self, part: AdapterRegistry) -> None:
        async for _ in part.watch():
            self._feed.publish(self._current())

    def _current(self) -> Served:
        """Return what both serve now, made again only when one of them changed."""
        dropped = (self._folder.all(), self._folder.refused())
        if not any(dropped):
            return self.catalog.served
        made_of = (self.catalog.served, *dropped)
        if made_of != self._made_of:
            self._made_of, self._made = made_of, self._join()
        return self._made

    def _join(self) -> Served:
        versions = list(self.catalog.all())
        refused = list(self.catalog.refused())
        refused += (adapter for adapter in self._folder.refused() if not self.catalog.knows(adapter.name))
        for version in self._folder.all():
            if self.catalog.knows(version.name):
                # Under another name: no name is both served and refused.
                name = version.name + _HIDDEN
                refused.append(RefusedAdapter(name, "the catalog has an adapter of this name"))
            elif self.catalog.has_number(version):
                refused.append(RefusedAdapter(version.name, "its number in the engines is taken; rename its folder"))
            else:
                versions.append(version)
        return Served.of(versions, refused)
