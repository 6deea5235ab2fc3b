"""A registry of versions that its owner names: of a fleet without adapters, and of tests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from aloraserve.adapters.base import AdapterRef, AdapterVersion, RefusedAdapter, ServedName
from aloraserve.adapters.served import FedRegistry, Served, ServedFeed


class StaticRegistry(FedRegistry):
    """See :class:`~aloraserve.adapters.base.AdapterRegistry`; it changes by :meth:`publish` alone.

    Args:
        versions: served at first.
        refused: not served.
        base_names: names of the base model, for the message of an unknown one.
    """

    def __init__(
        self,
        versions: Iterable[AdapterVersion] = (),
        refused: Iterable[RefusedAdapter] = (),
        *,
        base_names: Sequence[str] = (),
    ) -> None:
        self._base_names = base_names
        self._known: dict[str, AdapterVersion] = {}
        self._feed = ServedFeed(Served())
        self.publish(versions, refused)

    def publish(self, versions: Iterable[AdapterVersion], refused: Iterable[RefusedAdapter] = ()) -> None:
        """Serve these instead."""
        self._feed.publish(Served.of(versions, refused))
        self._known |= {version.engine_name: version for version in self.all()}

    def resolve(self, name: str, *, tenant: str | None = None, key: str = "") -> AdapterVersion:
        """See the contract; every adapter here is for everyone."""
        return self._feed.current.resolve(name, self._base_names)

    def listed(self, tenant: str | None = None) -> tuple[ServedName, ...]:
        """See the contract."""
        return tuple(ServedName(version.name, version.name, version) for version in self.all())

    def sees(self, tenant: str | None, name: str) -> bool:
        """See the contract."""
        return True

    async def begin(self) -> None:
        """See the contract."""

    async def find(self, ref: AdapterRef) -> AdapterVersion | None:
        """See the contract; every version that was ever published is known."""
        return self._known.get(ref.engine_name)

    async def run(self) -> None:
        """Wait until cancelled: there is no source."""
        await asyncio.get_running_loop().create_future()

    async def close(self) -> None:
        """See the contract."""
