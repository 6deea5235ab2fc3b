"""Where a fleet's tenants are kept: in memory, or in the fleet's Redis; and their copy on a machine's disk."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Self

import msgspec
import structlog

from aloraserve.records import RecordPosition, RecordStore, StoredRecord
from aloraserve.records.file import FiledRecord, FileKeeper, RecordFile
from aloraserve.records.memory import MemoryStore
from aloraserve.records.redis import TIMEOUT_S, RedisStore, open_client
from aloraserve.tenants.record import TenantRecord, check_tenant, tenant_kind

MAX_FILE_BYTES = 128 << 20
TenantStore = RecordStore[TenantRecord]

log = structlog.get_logger(__name__)


class MemoryTenantStore(MemoryStore[TenantRecord]):
    """Tenants in this process's memory. For one event loop."""

    def __init__(self) -> None:
        super().__init__(tenant_kind())


class RedisTenantStore(RedisStore[TenantRecord]):
    """Tenants beside the fleet's directory; of keys it has what :class:`~aloraserve.tenants.keys.KeyRecord` has."""

    @classmethod
    def from_url(cls, url: str, *, namespace: str, timeout_s: float = TIMEOUT_S) -> Self:
        """Return the store at ``url``; connects when first used.

        Raises:
            ValueError: the URL or the namespace is not one of those accepted.
        """
        kind = tenant_kind()
        return cls(open_client(kind, url, timeout_s), kind, namespace=namespace)


class TenantFile(RecordFile[TenantRecord], frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the copy holds.

    Args:
        format: says what the file is.
        schema: counts up when files of an earlier release cannot be read any more.
    """

    format: Literal["aloraserve-tenants"]
    schema: Literal[1]


_DECODER = msgspec.json.Decoder(TenantFile)


class TenantBackup(FileKeeper[TenantRecord]):
    """A copy on this machine's disk, for a server that has none and for one that lost its data.

    Args:
        path: of the file.
        namespace: of the fleet.
    """

    def __init__(self, path: Path, namespace: str) -> None:
        super().__init__(path, "tenants", self._bytes)
        self._namespace = namespace

    def read(self) -> TenantFile | None:
        """Return the file, None if there is none that can be read. Blocks."""
        try:
            if self.path.stat().st_size > MAX_FILE_BYTES:
                raise OSError(errno.EFBIG, "too long")
            file = _DECODER.decode(self.path.read_bytes())
            for filed in file.records:
                check_tenant(filed.record)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            log.warning("tenants_backup_unreadable", cause=type(error).__name__)
            return None
        return file if file.namespace == self._namespace else None

    def _bytes(self, records: Iterable[StoredRecord[TenantRecord]], position: RecordPosition) -> bytes:
        filed = tuple(FiledRecord(record=record, revision=revision) for record, revision in records)
        file = TenantFile(
            format="aloraserve-tenants",
            schema=1,
            namespace=self._namespace,
            epoch=position.epoch,
            revision=position.revision,
            floor=position.floor,
            records=filed,
        )
        return msgspec.json.encode(file)
