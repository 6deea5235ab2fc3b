"""Prefixes that all tenants share by an administrator's choice: their blocks belong to nobody, what follows is salted.

A block is public if its tokens, and all before it, are exactly those of a registered prefix: only whole blocks are, and
no others. What a tenant can learn from them is whether somebody used a prefix that it knows anyway.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from aloraserve.blocks import KeySpace
from aloraserve.errors import InvalidRequestError, TenantChangedError, TenantConflictError, UnknownPrefixError
from aloraserve.records import RecordKind, RecordStore, RecordView
from aloraserve.records.backup import RecordBackup
from aloraserve.records.editing import edit_record
from aloraserve.records.file import RecordFile
from aloraserve.tenants.names import NAME_RULE, is_name

POLL_S = 0.5
MAX_PREFIXES = 64
MAX_DELETED = 64
MAX_PREFIX_TOKENS = 32_768

PublicBlocks = Callable[[Sequence[int], int], int]
"""Returns how many leading blocks of a prompt are public, at most as many as the second argument says."""


def none_public(token_ids: Sequence[int], most: int) -> int:
    """Return that no block is public: there are no prefixes."""
    return 0


class PrefixRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """A prefix that all tenants share.

    Args:
        name: of the prefix.
        token_ids: of it.
        keyspace: fingerprint of the fleet whose tokens they are.
        created_at: in seconds since 1970.
        deleted_at: likewise; None: it is not.
    """

    name: str
    token_ids: Annotated[tuple[int, ...], msgspec.Meta(max_length=MAX_PREFIX_TOKENS)] = ()
    keyspace: str = ""
    created_at: float = 0.0
    deleted_at: float | None = None

    @property
    def is_deleted(self) -> bool:
        """Whether nothing but the name is left."""
        return self.deleted_at is not None


PrefixStore = RecordStore[PrefixRecord]


def prefix_kind() -> RecordKind[PrefixRecord]:
    """Return what makes a store one of prefixes."""
    return RecordKind(
        label="shared_prefixes",
        part="shared prefixes",
        key="prefixes1",
        encode=msgspec.json.encode,
        decode=msgspec.json.Decoder(PrefixRecord).decode,
        changed=_changed_meanwhile,
        full=_store_full,
        max_names=MAX_PREFIXES,
        max_deleted=MAX_DELETED,
    )


class PrefixFile(RecordFile[PrefixRecord], frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the copy holds.

    Args:
        format: says what the file is.
        schema: counts up when files of an earlier release cannot be read any more.
    """

    format: Literal["aloraserve-prefixes"]
    schema: Literal[1]


class PrefixBackup(RecordBackup[PrefixRecord]):
    """A copy of a fleet's prefixes.

    Args:
        path: of the file.
        namespace: of the fleet.
    """

    def __init__(self, path: Path, namespace: str) -> None:
        marks = {"format": "aloraserve-prefixes", "schema": 1}
        super().__init__(path, "shared_prefixes", namespace, PrefixFile, marks, _check_prefix)


class SharedPrefixes:
    """The fleet's prefixes, known in memory. For one event loop, but for :meth:`public_blocks`.

    Args:
        store: of the fleet; closed by :meth:`close`.
        keyspace: of the fleet.
        backup: file that outlives a store that loses its data; None for a process that keeps none.
        clock: seconds since 1970.

    Attributes:
        view: of the store; the caller has it refreshed, and calls :meth:`catch_up` then.
    """

    def __init__(
        self,
        store: PrefixStore,
        keyspace: KeySpace,
        *,
        backup: PrefixBackup | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.view: RecordView[PrefixRecord] = RecordView(store, "shared_prefixes", restores=True)
        self._store = store
        self._keyspace = keyspace
        self._backup = backup
        self._clock = clock
        self._generation = -1
        self._public: frozenset[bytes] = frozenset()

    def public_blocks(self, token_ids: Sequence[int], most: int) -> int:
        """Return how many leading blocks of a prompt are public, ``most`` at most."""
        public, width = self._public, self._keyspace.block_tokens
        if not public:
            return 0
        key = self._keyspace.root(None)
        for index in range(min(most, len(token_ids) // width)):
            [key] = self._keyspace.extend(key, token_ids[index * width : (index + 1) * width])
            if key not in public:
                return index
        return min(most, len(token_ids) // width)

    async def begin(self) -> None:
        """Read the store; what an earlier run knew is shared while it does not answer."""
        if self._backup is not None and (file := await asyncio.to_thread(self._backup.read)) is not None:
            self.view.adopt(file.stored, file.position)
        await self.look()

    async def look(self) -> None:
        """Look at the store now; while it does not answer, what is known stays."""
        await self.view.look()
        self.catch_up()
        if self._backup is not None and len(self.view):
            await self._backup.write(self.view)

    def catch_up(self) -> None:
        """Share what the view has by now."""
        if self._generation != self.view.generation:
            self._generation = self.view.generation
            known = (stored.record for stored in self.view if not stored.record.is_deleted)
            own = (record for record in known if record.keyspace == self._keyspace.fingerprint)
            self._public = frozenset(key for record in own for key in self._keyspace.keys(record.token_ids))

    async def run(self) -> None:
        """Follow the store until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            await self.look()

    async def close(self) -> None:
        """Write the copy and release the store."""
        if self._backup is not None and len(self.view):
            await self._backup.write(self.view, at_once=True)
        await self._store.close()

    async def list(self) -> list[PrefixRecord]:
        """Return all prefixes, by name.

        Raises:
            DirectoryUnavailableError: the store does not answer.
        """
        await self.view.refresh()
        self.catch_up()
        return [stored.record for stored in self.view if not stored.record.is_deleted]

    async def put(self, name: str, token_ids: Sequence[int]) -> PrefixRecord:
        """Have all tenants share a prefix from now on; one of that name is replaced.

        Raises:
            InvalidRequestError: the name is not accepted, or the prefix is too short or too long.
            TenantConflictError: there are too many.
            DirectoryUnavailableError: the store does not answer.
        """
        width = self._keyspace.block_tokens
        if not is_name(name):
            raise InvalidRequestError(f"name is {name[:80]!r}; {NAME_RULE} are accepted", param="name")
        if not width <= len(token_ids) <= MAX_PREFIX_TOKENS:
            raise InvalidRequestError(
                f"the prefix has {len(token_ids)} tokens; {width}, one block, to {MAX_PREFIX_TOKENS} are accepted"
            )
        record = PrefixRecord(
            name=name,
            token_ids=tuple(token_ids),
            keyspace=self._keyspace.fingerprint,
            created_at=self._clock(),
        )
        return await self._edit(name, lambda known: record)

    async def delete(self, name: str) -> None:
        """Share a prefix no more: its blocks are not found again.

        Raises:
            UnknownPrefixError: there is none.
            DirectoryUnavailableError: the store does not answer.
        """

        def deleted(known: PrefixRecord | None) -> PrefixRecord:
            if known is None or known.is_deleted:
                raise UnknownPrefixError(f"there is no shared prefix {name[:80]!r}")
            return PrefixRecord(name=name, created_at=known.created_at, deleted_at=self._clock())

        await self._edit(name, deleted)

    async def _edit(self, name: str, change: Callable[[PrefixRecord | None], PrefixRecord]) -> PrefixRecord:
        stored = await edit_record(self._store, name, change, lost=TenantChangedError)
        self.view.take(*stored)
        self.catch_up()
        return stored.record


def _check_prefix(record: PrefixRecord) -> None:
    if not is_name(record.name):
        raise ValueError(f"{record.name[:80]!r} is not a name")


def _changed_meanwhile(name: str) -> TenantChangedError:
    return TenantChangedError(f"the shared prefix {name!r} was changed by another call meanwhile; try again")


def _store_full(most: int) -> TenantConflictError:
    return TenantConflictError(f"there are {most} shared prefixes, the most that are accepted; delete some first")
