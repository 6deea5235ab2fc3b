"""Adapters as one caller may manage them: both edges go through this, so that neither forgets whose an adapter is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from aloraserve.adapters import CheckReport
from aloraserve.adapters.catalog import AdapterEntry, AdapterRecord, EntryQuery, Reference
from aloraserve.adapters.management import AdapterManager, Registration
from aloraserve.tenants import Caller
from aloraserve.wire.adapter_answers import entry_json, record_json
from aloraserve.wire.adapters import AdapterCheckRequest, AdapterRequest, AliasRequest
from aloraserve_services.gateway.adapter_access import AdapterAccess


class OwnAdapters:
    """See the module's docstring. Answers are JSON types.

    Every method that names an adapter raises UnknownAdapterError if it is another's, as if it were not there.

    Args:
        manager: does what is asked for.
        access: knows who may ask for what.
        caller: who asks.
    """

    def __init__(self, manager: AdapterManager, access: AdapterAccess, caller: Caller) -> None:
        self._manager = manager
        self._access = access
        self._caller = caller

    async def page(self, query: EntryQuery) -> dict[str, Any]:
        """Return a page of versions by name, and the name that the next one begins after."""
        page = await self._manager.list(self._access.query(self._caller, query))
        return {"data": await self._shown(page.entries), "next": page.next}

    async def get(self, reference: str) -> dict[str, Any]:
        """Return all that is known of an adapter: its versions, where they are, and its aliases."""
        await self._check(reference)
        record = self._access.own(self._caller, await self._manager.get(reference))
        return record_json(record) | {"versions": await self._shown(record.meant(Reference.read(reference)))}

    async def register(self, body: AdapterRequest) -> Registration:
        """Begin a registration."""
        return await self._manager.register(await self._access.registration(self._caller, body))

    async def check(self, body: AdapterCheckRequest) -> CheckReport:
        """Fetch and check an adapter, keep nothing, and return all problems."""
        return await self._manager.validate(await self._access.registration(self._caller, body))

    async def retire(self, reference: str, reason: str) -> dict[str, Any]:
        """Have an adapter, or a version, take no new calls."""
        await self._check(reference)
        return self._record(await self._manager.retire(reference, reason=reason))

    async def delete(self, reference: str, reason: str, *, force: bool) -> dict[str, Any]:
        """Delete an adapter or a version; one in use only by force."""
        await self._check(reference)
        return self._record(await self._manager.delete(reference, reason=reason, force=force))

    async def aliases(self, name: str) -> list[dict[str, Any]]:
        """Return an adapter's aliases."""
        await self._check(name)
        found: list[dict[str, Any]] = record_json(await self._manager.get(name))["aliases"]
        return found

    async def set_alias(self, name: str, alias: str, body: AliasRequest) -> dict[str, Any]:
        """Point an alias to a version, or give a version a share of its conversations."""
        place = await self._alias(name, alias)
        if body.share is None:
            return self._record(await self._manager.point(place, body.target, reason=body.reason))
        return self._record(await self._manager.canary(place, body.target, body.share, reason=body.reason))

    async def remove_alias(self, name: str, alias: str) -> dict[str, Any]:
        """Remove an alias; the versions stay."""
        return self._record(await self._manager.remove_alias(await self._alias(name, alias)))

    async def roll_back(self, name: str, alias: str, reason: str) -> dict[str, Any]:
        """Point an alias where it pointed before."""
        return self._record(await self._manager.roll_back(await self._alias(name, alias), reason=reason))

    async def _check(self, reference: str) -> None:
        await self._access.check_own(self._caller, reference)

    async def _alias(self, name: str, alias: str) -> str:
        await self._check(name)
        return f"{name}@{alias}"

    def _record(self, record: AdapterRecord) -> dict[str, Any]:
        return record_json(self._access.own(self._caller, record))

    async def _shown(self, entries: Sequence[AdapterEntry]) -> list[dict[str, Any]]:
        usages = await asyncio.gather(*map(self._manager.usage, entries))
        return [entry_json(entry, usage) for entry, usage in zip(entries, usages, strict=True)]
