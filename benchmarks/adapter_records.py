"""A catalog of many adapters, as a team that gives each product its own intrinsics would have it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from aloraserve.adapters.catalog import AdapterEntry, AdapterRecord, AdapterState, Share, StateChange, StoredRecord
from aloraserve.adapters.catalog.base import CatalogPosition
from aloraserve.adapters.catalog.entry import Invocation
from aloraserve.adapters.catalog.file import write_catalog

BASE = "bench"
RANK = 32
TARGETS = ("k_proj", "q_proj", "v_proj")
PRODUCTS = 100
ALIAS = "prod"
INTRINSICS = ("answerability", "hallucination", "safety", "uncertainty")
_STEPS = (AdapterState.REGISTERED, AdapterState.VALIDATED, AdapterState.AVAILABLE)


def made_records(count: int) -> Iterator[AdapterRecord]:
    """Yield records of one version and the alias ``prod`` each; always the same for equal counts."""
    return (_record(number) for number in range(count))


def made_file(count: int) -> bytes:
    """Return the file of a catalog with so many adapters."""
    stored = (StoredRecord(record, number) for number, record in enumerate(made_records(count), 1))
    return write_catalog(stored, CatalogPosition(), BASE)


def make_room(store: Path, count: int) -> None:
    """Have a store name the content of each; the folders are empty, and nothing here reads them."""
    for record in made_records(count):
        (store / record.versions[0].version).mkdir(parents=True)


def _record(number: int) -> AdapterRecord:
    entry = _entry(number)
    record = AdapterRecord(name=entry.name).added(entry, promote=True)
    return record.pointed(ALIAS, [Share(version=entry.version)], entry.registered_at, "released")


def _entry(number: int) -> AdapterEntry:
    intrinsic, product = INTRINSICS[number % len(INTRINSICS)], f"product-{number % PRODUCTS:02d}"
    name = f"{intrinsic}.{product}.{number:05d}"
    is_alora = number % 5 > 0
    return AdapterEntry(
        name=name,
        version=hashlib.sha256(name.encode()).hexdigest(),
        kind="alora" if is_alora else "lora",
        base=BASE,
        rank=RANK,
        alpha=float(RANK),
        targets=TARGETS,
        invocation=Invocation(tokens=(1, 2, 3), text=f"<|im_start|>{intrinsic}\n") if is_alora else Invocation(),
        labels={"intrinsic": intrinsic, "product": product},
        size_bytes=50_000_000,
        source=f"s3://adapters/{product}/{name}",
        history=tuple(StateChange(state=state, at=float(number), reason="made") for state in _STEPS),
    )
