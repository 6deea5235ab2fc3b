"""The catalog in Redis (>= 7) or Valkey, beside the fleet's directory.

All lies under ``{aloraserve:<namespace>}:catalog<schema>:``, in one slot of a cluster:

============  ======  ============================================================================
key           type    content
============  ======  ============================================================================
``records``   hash    name -> ``"<revision> <JSON of its record>"``
``changed``   zset    name, by the revision of its last change
``deleted``   hash    names without a live version -> revision; the oldest are forgotten
``about``     hash    ``epoch``: random, lost when the data are; ``revision``: of the last change;
                      ``floor``: of the last that was forgotten
============  ======  ============================================================================

None of them expires: a server that evicts takes other keys.
"""

from __future__ import annotations

import secrets
from typing import Self

from aloraserve.adapters.catalog.base import (
    MAX_DELETED_NAMES,
    MAX_NAMES,
    PAGE_RECORDS,
    CatalogChanges,
    CatalogPosition,
    StoredRecord,
    decode_record,
    encode_record,
)
from aloraserve.adapters.catalog.memory import catalog_full, changed_meanwhile
from aloraserve.adapters.catalog.record import AdapterRecord
from aloraserve.redis.keys import fleet_prefix
from aloraserve.redis.script_client import ScriptClient
from aloraserve.redis.scripts import Script, ScriptCall

SCHEMA = 1
"""Counts up when records of an earlier release cannot be read any more."""
MAX_CALLS = 4
TIMEOUT_S = 2.0

_GET = Script.read(__package__, "get")
_PUT = Script.read(__package__, "put")
_CHANGES = Script.read(__package__, "changes")


class RedisCatalog:
    """See :class:`~aloraserve.adapters.catalog.base.AdapterCatalog`. Every change is one script.

    Args:
        client: closed by :meth:`close`.
        namespace: of the fleet.
        max_names: that are not deleted.
        max_deleted: names that are.

    Raises:
        ValueError: the namespace is empty or has a brace.
    """

    def __init__(
        self,
        client: ScriptClient,
        *,
        namespace: str,
        max_names: int = MAX_NAMES,
        max_deleted: int = MAX_DELETED_NAMES,
    ) -> None:
        self._scripts = client
        self._max_names = max_names
        self._max_deleted = max_deleted
        prefix = f"{fleet_prefix(namespace)}catalog{SCHEMA}:"
        self._records, self._changed, self._deleted, self._about = (
            f"{prefix}{name}" for name in ("records", "changed", "deleted", "about")
        )

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        namespace: str,
        timeout_s: float = TIMEOUT_S,
        max_names: int = MAX_NAMES,
        max_deleted: int = MAX_DELETED_NAMES,
    ) -> Self:
        """Return a catalog at ``url``; connects when first used.

        Raises:
            ValueError: the URL or the namespace is not one of those accepted.
        """
        client = ScriptClient.from_url(url, timeout_s=timeout_s, max_calls=MAX_CALLS, part="adapter catalog")
        return cls(client, namespace=namespace, max_names=max_names, max_deleted=max_deleted)

    async def get(self, name: str) -> StoredRecord | None:
        found = await self._scripts.run(ScriptCall(_GET, (self._records,), (name,)))
        return None if found is None else self._read(found)

    async def put(self, record: AdapterRecord, *, expected: int) -> int:
        arguments = (
            record.name,
            expected,
            encode_record(record),
            int(record.is_deleted),
            secrets.token_hex(8),
            self._max_names,
            self._max_deleted,
        )
        keys = (self._records, self._changed, self._deleted, self._about)
        outcome, *revision = await self._scripts.run(ScriptCall(_PUT, keys, arguments))
        if outcome == b"changed":
            raise changed_meanwhile(record.name)
        if outcome == b"full":
            raise catalog_full(self._max_names)
        return int(revision[0])

    async def changes(self, since: CatalogPosition) -> CatalogChanges:
        arguments = (since.epoch, since.revision, since.floor, PAGE_RECORDS)
        keys = (self._records, self._changed, self._about)
        reply = await self._scripts.run(ScriptCall(_CHANGES, keys, arguments))
        epoch, revision, floor, restarts, has_more, *contents = reply
        records = tuple(map(self._read, contents))
        behind = records[-1].revision if has_more else int(revision)
        position = CatalogPosition(epoch.decode("ascii", "replace"), behind, int(floor))
        return CatalogChanges(records, position, restarts=bool(restarts), has_more=bool(has_more))

    async def close(self) -> None:
        await self._scripts.close()

    def _read(self, content: bytes) -> StoredRecord:
        revision, _, record = content.partition(b" ")
        try:
            return StoredRecord(decode_record(record), int(revision))
        except ValueError as error:
            raise self._scripts.unavailable("has a record that cannot be read") from error
