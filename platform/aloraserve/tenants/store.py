"""Where a fleet's tenants are kept: in memory, or in the fleet's Redis; and their copy on a machine's disk."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from aloraserve.records import RecordStore
from aloraserve.records.backup import RecordBackup
from aloraserve.records.file import RecordFile
from aloraserve.records.memory import MemoryStore
from aloraserve.records.redis import TIMEOUT_S, RedisStore, open_client
from aloraserve.tenants.record import TenantRecord, check_tenant, tenant_kind

TenantStore = RecordStore[TenantRecord]


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


class TenantBackup(RecordBackup[TenantRecord]):
    """A copy of a fleet's tenants.

    Args:
        path: of the file.
        namespace: of the fleet.
    """

    def __init__(self, path: Path, namespace: str) -> None:
        marks = {"format": "aloraserve-tenants", "schema": 1}
        super().__init__(path, "tenants", namespace, TenantFile, marks, check_tenant)
