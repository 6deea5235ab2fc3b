"""Entries and records of a catalog, as registrations make them."""

from __future__ import annotations

import hashlib

from aloraserve.adapters.catalog import AdapterEntry, AdapterRecord, AdapterState, StateChange
from aloraserve.adapters.catalog.entry import Visibility

BASE_MODEL = "base-model-fingerprint"
AT = 1_700_000_000.0


def version_of(text: str) -> str:
    """Return a digest that stands for a content."""
    return hashlib.sha256(text.encode()).hexdigest()


def entry(
    name: str,
    content: str = "1",
    *,
    kind: str = "lora",
    owner: str | None = None,
    visibility: Visibility = "public",
    labels: dict[str, str] | None = None,
) -> AdapterEntry:
    """Return an available version."""
    steps = (AdapterState.REGISTERED, AdapterState.VALIDATED, AdapterState.AVAILABLE)
    return AdapterEntry(
        name=name,
        version=version_of(f"{name} {content}"),
        kind="alora" if kind == "alora" else "lora",
        base=BASE_MODEL,
        rank=8,
        targets=("q_proj",),
        owner=owner,
        visibility=visibility,
        labels=labels or {},
        history=tuple(StateChange(state=state, at=AT, reason="test") for state in steps),
    )


def record(name: str, *contents: str, owner: str | None = None) -> AdapterRecord:
    """Return a name with versions of these contents; it stands for the last."""
    made = AdapterRecord(name=name)
    for content in contents or ("1",):
        made = made.added(entry(name, content, owner=owner), promote=True)
    return made


def deleted(known: AdapterRecord) -> AdapterRecord:
    """Return a record with every version deleted."""
    return known.moved([each.version for each in known.live], AdapterState.DELETED, AT, "test")
