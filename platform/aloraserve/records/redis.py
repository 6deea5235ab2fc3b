"""Records in Redis (>= 7) or Valkey, beside the fleet's directory.

Those of a kind lie under ``{aloraserve:<namespace>}:<key>:``, in one slot of a cluster:

============  ======  ============================================================================
key           type    content
============  ======  ============================================================================
``records``   hash    name -> ``"<revision> <the record's bytes>"``
``changed``   zset    name, by the revision of its last change
``deleted``   hash    names that are deleted -> revision; the oldest are forgotten
``about``     hash    ``epoch``: random, lost when the data are; ``revision``: of the last change;
                      ``floor``: of the last that was forgotten
============  ======  ============================================================================

None of them expires: a server that evicts takes other keys.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Generic

import structlog

from aloraserve.records.base import PAGE_RECORDS, R, RecordChanges, RecordKind, RecordPosition, StoredRecord
from aloraserve.redis.keys import fleet_prefix
from aloraserve.redis.script_client import ScriptClient
from aloraserve.redis.scripts import Script, ScriptCall

MAX_CALLS = 4
TIMEOUT_S = 2.0

log = structlog.get_logger(__name__)
_GET = Script.read(__package__, "get")
_PUT = Script.read(__package__, "put")
_CHANGES = Script.read(__package__, "changes")


class RedisStore(Generic[R]):
    """See :class:`~aloraserve.records.base.RecordStore`. Every change is one script.

    Args:
        client: closed by :meth:`close`.
        kind: of the records.
        namespace: of the fleet.

    Raises:
        ValueError: the namespace is empty or has a brace.
    """

    def __init__(self, client: ScriptClient, kind: RecordKind[R], *, namespace: str) -> None:
        self._scripts = client
        self._kind = kind
        prefix = f"{fleet_prefix(namespace)}{kind.key}:"
        self._records, self._changed, self._deleted, self._about = (
            f"{prefix}{name}" for name in ("records", "changed", "deleted", "about")
        )

    async def get(self, name: str) -> StoredRecord[R] | None:
        found = await self._scripts.run(ScriptCall(_GET, (self._records,), (name,)))
        if found is None:
            return None
        try:
            return self._stored(found)
        except ValueError as error:
            raise self._scripts.unavailable("has a record that cannot be read") from error

    async def put(self, record: R, *, expected: int) -> int:
        kind = self._kind
        content, is_deleted = kind.encode(record), int(record.is_deleted)
        epoch = secrets.token_hex(8)
        arguments = (record.name, expected, content, is_deleted, epoch, kind.max_names, kind.max_deleted)
        keys = (self._records, self._changed, self._deleted, self._about)
        outcome, *revision = await self._scripts.run(ScriptCall(_PUT, keys, arguments))
        if outcome == b"changed":
            raise kind.changed(record.name)
        if outcome == b"full":
            raise kind.full(kind.max_names)
        return int(revision[0])

    async def changes(self, since: RecordPosition) -> RecordChanges[R]:
        arguments = (since.epoch, since.revision, since.floor, PAGE_RECORDS)
        keys = (self._records, self._changed, self._about)
        reply = await self._scripts.run(ScriptCall(_CHANGES, keys, arguments))
        epoch, revision, floor, restarts, has_more, *contents = reply
        behind = _revision(contents[-1]) if has_more else int(revision)
        position = RecordPosition(epoch.decode("ascii", "replace"), behind, int(floor))
        return RecordChanges(self._readable(contents), position, restarts=bool(restarts), has_more=bool(has_more))

    async def close(self) -> None:
        await self._scripts.close()

    def _stored(self, content: bytes) -> StoredRecord[R]:
        return StoredRecord(self._kind.decode(content.partition(b" ")[2]), _revision(content))

    def _readable(self, contents: Sequence[bytes]) -> tuple[StoredRecord[R], ...]:
        """Return the records that can be read; one of a later release, say, hides no other."""
        found = []
        for content in contents:
            try:
                found.append(self._stored(content))
            except ValueError as error:
                label = f"{self._kind.label}_record_unreadable"
                log.warning(label, revision=_revision(content), cause=str(error)[:200])
        return tuple(found)


def open_client(kind: RecordKind[R], url: str, timeout_s: float = TIMEOUT_S) -> ScriptClient:
    """Return a client for a store of a kind; it connects when first used.

    Raises:
        ValueError: the URL is not one of those accepted.
    """
    return ScriptClient.from_url(url, timeout_s=timeout_s, max_calls=MAX_CALLS, part=kind.part)


def _revision(content: bytes) -> int:
    return int(content.partition(b" ")[0])
