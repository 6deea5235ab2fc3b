"""The catalog as a file: out of one fleet, into another."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from aloraserve.adapters.catalog.base import AdapterCatalog
from aloraserve.adapters.catalog.file import read_catalog, write_catalog
from aloraserve.adapters.catalog.record import AdapterRecord, check_record
from aloraserve.adapters.catalog.view import CatalogView
from aloraserve.adapters.management.base import AdapterIntake
from aloraserve.errors import AdapterConflictError

MAX_SHOWN = 10


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What became of a file's names.

    Args:
        imported: that are in the catalog now.
        skipped: that it had already.
    """

    imported: tuple[str, ...]
    skipped: tuple[str, ...] = ()


def export_catalog(view: CatalogView, namespace: str) -> bytes:
    """Return the file of all that is in a view."""
    return write_catalog(view, view.position, namespace)


async def import_catalog(
    content: bytes,
    catalog: AdapterCatalog,
    view: CatalogView,
    intake: AdapterIntake,
    *,
    base: str,
    base_names: Collection[str],
    skip_existing: bool,
) -> ImportResult:
    """See the manager's ``import_file``; everything is checked before the first record is put."""
    records = await asyncio.to_thread(_read, content)
    _refuse([record.name for record in records if record.name in base_names], "has the base model's name")
    there = tuple(record.name for record in records if _is_there(view, record.name))
    if there and not skip_existing:
        raise AdapterConflictError(f"the catalog has {_shown(there)} already; delete them, or skip what exists")
    wanted = [record for record in records if record.name not in set(there)]
    _refuse(_of_other_models(wanted, base), "was checked for another base model")
    _refuse(await asyncio.to_thread(_without_weights, wanted, intake), "has no weights in the store")
    for record in wanted:
        await asyncio.to_thread(_refer, record, intake)
        known = view.get(record.name)
        view.take(record, await catalog.put(record, expected=0 if known is None else known.revision))
    return ImportResult(tuple(record.name for record in wanted), there)


def _read(content: bytes) -> list[AdapterRecord]:
    """Return a file's records, each checked; ten thousand take a second."""
    records = [filed.record for filed in read_catalog(content).records if not filed.record.is_deleted]
    for record in records:
        check_record(record)
    return records


def _refer(record: AdapterRecord, intake: AdapterIntake) -> None:
    for entry in record.live:
        intake.refer(entry.version)


def _is_there(view: CatalogView, name: str) -> bool:
    stored = view.get(name)
    return stored is not None and not stored.record.is_deleted


def _of_other_models(records: Sequence[AdapterRecord], base: str) -> list[str]:
    return [entry.shown for record in records for entry in record.live if entry.base != base]


def _without_weights(records: Sequence[AdapterRecord], intake: AdapterIntake) -> list[str]:
    return [entry.shown for record in records for entry in record.live if not intake.has(entry.version)]


def _refuse(names: Sequence[str], why: str) -> None:
    if names:
        raise AdapterConflictError(f"nothing was imported: {_shown(names)} {why}")


def _shown(names: Sequence[str]) -> str:
    more = len(names) - MAX_SHOWN
    return ", ".join(names[:MAX_SHOWN]) + (f" and {more} more" if more > 0 else "")
