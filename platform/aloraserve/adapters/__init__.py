"""Adapters: what one is, how a PEFT folder becomes one, and the live registries of those served."""

from aloraserve.adapters.base import (
    AdapterKind,
    AdapterRef,
    AdapterRegistry,
    AdapterVersion,
    RefusedAdapter,
    RegistryChange,
    ServedName,
)
from aloraserve.adapters.checks import AdapterFacts, CheckReport, check_adapter
from aloraserve.adapters.folder import FolderRegistry
from aloraserve.adapters.invocation import InvocationMode
from aloraserve.adapters.joined import JoinedRegistry
from aloraserve.adapters.limits import AdapterLimits
from aloraserve.adapters.peft_files import AdapterFiles
from aloraserve.adapters.problems import Problem
from aloraserve.adapters.reader import AdapterReader
from aloraserve.adapters.shape import BaseShape
from aloraserve.adapters.static import StaticRegistry
from aloraserve.adapters.store import AdapterStore

__all__ = [
    "AdapterFacts",
    "AdapterFiles",
    "AdapterKind",
    "AdapterLimits",
    "AdapterReader",
    "AdapterRef",
    "AdapterRegistry",
    "AdapterStore",
    "AdapterVersion",
    "BaseShape",
    "CheckReport",
    "FolderRegistry",
    "InvocationMode",
    "JoinedRegistry",
    "Problem",
    "RefusedAdapter",
    "RegistryChange",
    "ServedName",
    "StaticRegistry",
    "check_adapter",
]
