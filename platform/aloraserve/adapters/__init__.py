"""Adapters: what one is, how a PEFT folder becomes one, and the live registries of those served."""

from aloraserve.adapters.base import (
    AdapterKind,
    AdapterRef,
    AdapterRegistry,
    AdapterVersion,
    RefusedAdapter,
    RegistryChange,
)
from aloraserve.adapters.folder import FolderRegistry
from aloraserve.adapters.invocation import InvocationMode
from aloraserve.adapters.limits import AdapterLimits
from aloraserve.adapters.peft_files import read_adapter
from aloraserve.adapters.reader import AdapterReader
from aloraserve.adapters.shape import BaseShape
from aloraserve.adapters.snapshots import SnapshotStore
from aloraserve.adapters.static import StaticRegistry

__all__ = [
    "AdapterKind",
    "AdapterLimits",
    "AdapterReader",
    "AdapterRef",
    "AdapterRegistry",
    "AdapterVersion",
    "BaseShape",
    "FolderRegistry",
    "InvocationMode",
    "RefusedAdapter",
    "RegistryChange",
    "SnapshotStore",
    "StaticRegistry",
    "read_adapter",
]
