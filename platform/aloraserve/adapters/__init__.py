"""Adapters: what one is, how a PEFT folder becomes one, and the catalog of those served."""

from aloraserve.adapters.base import Adapter, AdapterCatalog, AdapterKind, RefusedAdapter
from aloraserve.adapters.folder import FolderCatalog
from aloraserve.adapters.peft_files import read_adapter
from aloraserve.adapters.shape import BaseShape

__all__ = [
    "Adapter",
    "AdapterCatalog",
    "AdapterKind",
    "BaseShape",
    "FolderCatalog",
    "RefusedAdapter",
    "read_adapter",
]
