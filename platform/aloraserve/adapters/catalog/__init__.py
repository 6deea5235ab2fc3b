"""The catalog: every adapter version that was registered, its life, and the aliases that point to versions."""

from aloraserve.adapters.catalog.alias import CURRENT, Alias, Share
from aloraserve.adapters.catalog.base import AdapterCatalog, CatalogChanges, CatalogPosition, StoredRecord
from aloraserve.adapters.catalog.entry import AdapterEntry, AdapterState, Invocation, StateChange, Visibility
from aloraserve.adapters.catalog.query import EntryPage, EntryQuery
from aloraserve.adapters.catalog.record import AdapterRecord
from aloraserve.adapters.catalog.reference import Reference

__all__ = [
    "CURRENT",
    "AdapterCatalog",
    "AdapterEntry",
    "AdapterRecord",
    "AdapterState",
    "Alias",
    "CatalogChanges",
    "CatalogPosition",
    "EntryPage",
    "EntryQuery",
    "Invocation",
    "Reference",
    "Share",
    "StateChange",
    "StoredRecord",
    "Visibility",
]
