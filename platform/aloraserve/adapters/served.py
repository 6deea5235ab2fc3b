"""Adapters that a registry serves at one moment, and changes since another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from aloraserve.adapters.base import AdapterRegistry, AdapterVersion, RefusedAdapter, RegistryChange
from aloraserve.errors import UnknownModelError

MAX_NAMES_SHOWN = 20


@dataclass(frozen=True)
class Served:
    """Versions by their names in engines, and refusals, both sorted by name. Never changed: a registry takes the next
    one whole."""

    versions: dict[str, AdapterVersion] = field(default_factory=dict)
    refused: tuple[RefusedAdapter, ...] = ()

    @classmethod
    def of(cls, versions: Iterable[AdapterVersion], refused: Iterable[RefusedAdapter] = ()) -> Served:
        """Return these, sorted."""
        found = sorted(versions, key=lambda version: (version.name, version.digest))
        by_name = {version.engine_name: version for version in found}
        return cls(by_name, tuple(sorted(refused, key=lambda adapter: adapter.name)))

    @cached_property
    def by_name(self) -> dict[str, AdapterVersion]:
        """The versions by name, of a registry that serves one of each name."""
        return {version.name: version for version in self.versions.values()}

    def resolve(self, name: str, base_names: Sequence[str]) -> AdapterVersion:
        """Return the version called ``name``; raises :func:`unknown_model` if there is none."""
        version = self.by_name.get(name)
        if version is None:
            raise unknown_model(name, [*base_names, *self.by_name])
        return version

    def since(self, before: Served) -> RegistryChange:
        """Return what changed from ``before`` to this."""
        old, new = before.versions, self.versions
        return RegistryChange(
            added=tuple(version for name, version in new.items() if not _same(old.get(name), version)),
            removed=tuple(version for name, version in old.items() if not _same(new.get(name), version)),
            refused=self.refused,
        )


def _same(one: AdapterVersion | None, other: AdapterVersion) -> bool:
    return one is other or one == other


class ServedFeed:
    """The current :class:`Served` of a registry, and whoever waits for the next one. For one event loop.

    :meth:`publish` may be called from any thread only before anybody watches.
    """

    def __init__(self, served: Served) -> None:
        self.current = served
        self._next = asyncio.Event()

    def publish(self, served: Served) -> None:
        """Serve this from now on and wake the watchers if it differs."""
        if served == self.current:
            return
        self.current = served
        woken, self._next = self._next, asyncio.Event()
        woken.set()

    async def watch(self) -> AsyncIterator[RegistryChange]:
        """Yield what is served, then each change."""
        seen = Served()
        is_first = True
        while True:
            upcoming, current = self._next, self.current
            if is_first or current != seen:
                yield current.since(seen)
            seen, is_first = current, False
            await upcoming.wait()


class FedRegistry:
    """Part of an :class:`~aloraserve.adapters.base.AdapterRegistry`: what follows from its feed alone."""

    _feed: ServedFeed

    async def look_again(self) -> None:
        """See the contract; there is nothing to look at that :meth:`run` does not follow."""

    def all(self) -> tuple[AdapterVersion, ...]:
        """See the contract."""
        return tuple(self._feed.current.versions.values())

    def refused(self) -> tuple[RefusedAdapter, ...]:
        """See the contract."""
        return self._feed.current.refused

    def watch(self) -> AsyncIterator[RegistryChange]:
        """See the contract."""
        return self._feed.watch()


async def resolved(registry: AdapterRegistry, name: str, *, tenant: str | None = None, key: str = "") -> AdapterVersion:
    """Return what :meth:`~aloraserve.adapters.base.AdapterRegistry.resolve` does, after another look if that fails."""
    try:
        return registry.resolve(name, tenant=tenant, key=key)
    except UnknownModelError:
        await registry.look_again()
    return registry.resolve(name, tenant=tenant, key=key)


def unknown_model(name: str, known: Sequence[str]) -> UnknownModelError:
    """Return the error of a model that is not served; it names some of those that are."""
    return UnknownModelError(f"model {name[:80]!r} is not served; served are {_enumerated(known)}", param="model")


def _enumerated(names: Sequence[str]) -> str:
    more = len(names) - MAX_NAMES_SHOWN
    return ", ".join(names[:MAX_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
