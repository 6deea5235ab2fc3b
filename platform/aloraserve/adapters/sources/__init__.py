"""Where adapters come from: folders, object stores, the hub, registries of artifacts."""

from aloraserve.adapters.sources.base import FILE_LIMITS, Progress
from aloraserve.adapters.sources.fetch import FetchLimits, SourceFetcher
from aloraserve.adapters.sources.policy import SourcePolicy
from aloraserve.adapters.sources.reference import SourceReference, parse_reference

__all__ = [
    "FILE_LIMITS",
    "FetchLimits",
    "Progress",
    "SourceFetcher",
    "SourcePolicy",
    "SourceReference",
    "parse_reference",
]
