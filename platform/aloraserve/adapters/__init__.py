"""Adapters: what one is, how a PEFT folder becomes one, and the catalog of those served."""

from aloraserve.adapters.base import (
    AdapterCatalog,
    AdapterKind,
    AdapterRegistry,
    AdapterVersion,
    RefusedAdapter,
    RegistryChange,
)
from aloraserve.adapters.folder import FolderCatalog
from aloraserve.adapters.peft_files import read_adapter
from aloraserve.adapters.shape import BaseShape

__all__ = [
    "AdapterCatalog",
    "AdapterKind",
    "AdapterRegistry",
    "AdapterVersion",
    "BaseShape",
    "FolderCatalog",
    "RefusedAdapter",
    "RegistryChange",
    "read_adapter",
]
