"""The catalog in Redis (>= 7) or Valkey, beside the fleet's directory."""

from __future__ import annotations

from typing import Self

from aloraserve.adapters.catalog.base import MAX_DELETED_NAMES, MAX_NAMES, catalog_kind
from aloraserve.adapters.catalog.record import AdapterRecord
from aloraserve.records.redis import TIMEOUT_S, RedisStore, open_client


class RedisCatalog(RedisStore[AdapterRecord]):
    """See :class:`~aloraserve.adapters.catalog.base.AdapterCatalog`."""

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
        kind = catalog_kind(max_names, max_deleted)
        return cls(open_client(kind, url, timeout_s), kind, namespace=namespace)
