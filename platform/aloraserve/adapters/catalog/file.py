"""The catalog as one file: to be moved to another fleet, and to outlive a server without a disk."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from aloraserve.adapters.catalog.base import MAX_DELETED_NAMES, MAX_NAMES, CatalogPosition, StoredRecord
from aloraserve.adapters.catalog.record import AdapterRecord
from aloraserve.errors import InvalidRequestError
from aloraserve.records.file import FiledRecord, RecordFile

MAX_FILE_BYTES = 256 << 20


class CatalogFile(RecordFile[AdapterRecord], frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the file holds. Weights are not in it: entries name them by digest, and the store has them.

    Args:
        format: says what the file is.
        schema: counts up when files of an earlier release cannot be read any more.
    """

    format: Literal["aloraserve-catalog"]
    schema: Literal[1]


_DECODER = msgspec.json.Decoder(CatalogFile)


def write_catalog(records: Iterable[StoredRecord], position: CatalogPosition, namespace: str) -> bytes:
    """Return the file of a catalog."""
    filed = tuple(FiledRecord(record=record, revision=revision) for record, revision in records)
    file = CatalogFile(
        format="aloraserve-catalog",
        schema=1,
        namespace=namespace,
        epoch=position.epoch,
        revision=position.revision,
        floor=position.floor,
        records=filed,
    )
    return msgspec.json.encode(file)


def read_catalog(content: bytes) -> CatalogFile:
    """Return what a file holds.

    Raises:
        InvalidRequestError: it is not a catalog's file, or not one of this release; says where.
    """
    if len(content) > MAX_FILE_BYTES:
        raise InvalidRequestError(f"the catalog's file has {len(content)} bytes; {MAX_FILE_BYTES} are accepted")
    try:
        file = _DECODER.decode(content)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"it is not a catalog's file: {str(error)[:200]}") from None
    names = {filed.record.name for filed in file.records}
    if len(names) != len(file.records):
        raise InvalidRequestError("the catalog's file has a name twice; each is accepted once")
    if len(names) > MAX_NAMES + MAX_DELETED_NAMES:
        raise InvalidRequestError(f"the catalog's file has {len(names)} names; {MAX_NAMES} are accepted")
    return file
