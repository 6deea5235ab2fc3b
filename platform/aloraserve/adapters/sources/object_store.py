"""Adapters in S3, Google Cloud Storage and Azure Blob Storage (extra ``object-stores``).

Endpoints and credentials are those of the server's environment, under the names that each provider's own tools use:
``AWS_*``, ``GOOGLE_*``, ``AZURE_*``, and ``AWS_ALLOW_HTTP=true`` or its like for endpoints without TLS. A reference
chooses the bucket and nothing else: what is connected to is the operator's choice.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from aloraserve.adapters.sources.addresses import CONNECT_TIMEOUT_S, READ_TIMEOUT_S
from aloraserve.adapters.sources.base import (
    CHUNK_BYTES,
    FILE_LIMITS,
    SourceChangedError,
    SourceFile,
    SourceInterruptedError,
)
from aloraserve.adapters.sources.reference import SourceReference
from aloraserve.errors import AdapterSourceError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore

_RETRIES = 2
_VARIABLES = {"s3": "AWS", "gs": "GOOGLE", "az": "AZURE"}


class ObjectStoreSource:
    """See :class:`~aloraserve.adapters.sources.base.Source`. A file's version is its entity tag.

    Args:
        reference: with scheme "s3", "gs" or "az".
        timeout_s: of each request, its content included.

    Raises:
        AdapterSourceError: the extra is not installed, or the environment's settings are wrong.
    """

    def __init__(self, reference: SourceReference, timeout_s: float) -> None:
        self._reference = reference
        self._prefix = "/".join(reference.path[1:] if reference.scheme == "az" else reference.path)
        self._store = _open(reference, timeout_s)

    def files(self) -> Sequence[SourceFile]:
        """See the contract."""
        return [file for name in FILE_LIMITS if (file := self._head(name)) is not None]

    def read(self, file: SourceFile, offset: int) -> Iterator[bytes]:
        """See the contract."""
        import obstore
        from obstore.exceptions import BaseError, PreconditionError

        if offset == file.size:
            return
        try:
            found = obstore.get(self._store, self._key(file.name), options={"range": {"offset": offset}})
            if _file_of(file.name, found.meta) != file:
                raise SourceChangedError
            for chunk in found.stream(min_chunk_size=CHUNK_BYTES // 4):
                yield from _pieces(memoryview(chunk))
        except (FileNotFoundError, PreconditionError) as error:
            raise SourceChangedError from error
        except (BaseError, OSError) as error:
            raise SourceInterruptedError(type(error).__name__) from error

    def _head(self, name: str) -> SourceFile | None:
        import obstore
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

        try:
            return _file_of(name, obstore.head(self._store, self._key(name)))
        except FileNotFoundError:
            return None
        except (PermissionDeniedError, UnauthenticatedError, PermissionError) as error:
            raise AdapterSourceError(
                f"{name} may not be read with the credentials of the server's environment"
            ) from error
        except (BaseError, OSError) as error:
            raise SourceInterruptedError(type(error).__name__) from error

    def close(self) -> None:
        """See the contract; the library closes what it opened."""

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name


def _open(reference: SourceReference, timeout_s: float) -> ObjectStore:
    try:
        from obstore.exceptions import BaseError
        from obstore.store import AzureStore, GCSStore, S3Store
    except ImportError:
        raise AdapterSourceError(
            f'{reference.scheme} sources need obstore, not installed here: pip install "aloraserve[object-stores]"'
        ) from None
    client: ClientConfig = {
        "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
        "read_timeout": timedelta(seconds=READ_TIMEOUT_S),
        "timeout": timedelta(seconds=timeout_s),
        "user_agent": "aloraserve",
        # Options that are given here replace all of the environment's.
        "allow_http": os.environ.get(f"{_VARIABLES[reference.scheme]}_ALLOW_HTTP", "") in ("1", "true"),
    }
    options: dict[str, Any] = {
        "client_options": client,
        "retry_config": {"max_retries": _RETRIES, "retry_timeout": timedelta(seconds=READ_TIMEOUT_S)},
    }
    try:
        if reference.scheme == "s3":
            return S3Store(reference.host, **options)
        if reference.scheme == "gs":
            return GCSStore(reference.host, **options)
        return AzureStore(reference.path[0], account_name=reference.host, **options)
    except (BaseError, ValueError) as error:
        # Not the error's own text, which may have a key of the environment.
        raise AdapterSourceError(
            f"the server's environment has no valid settings for {reference.scheme} sources"
        ) from error


def _file_of(name: str, meta: Mapping[str, Any]) -> SourceFile:
    version = meta.get("e_tag") or meta.get("version") or str(meta.get("last_modified"))
    return SourceFile(name, int(meta["size"]), str(version))


def _pieces(chunk: memoryview) -> Iterator[bytes]:
    for start in range(0, len(chunk), CHUNK_BYTES):
        yield bytes(chunk[start : start + CHUNK_BYTES])
