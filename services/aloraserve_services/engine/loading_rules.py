"""Which adapters an engine loads before they are called, and which of them stay."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from aloraserve.adapters import AdapterVersion
from aloraserve.settings import Settings


@dataclass(frozen=True, slots=True)
class LoadingRules:
    """Which adapters are loaded when, beside what each version says of itself.

    Args:
        pinned: names of those that every replica loads at its start and keeps.
        preloaded: names of those that it loads at its start, and again when they change.
        max_bytes: of the files of all that are loaded; 0: no limit.
    """

    pinned: Collection[str] = ()
    preloaded: Collection[str] = ()
    max_bytes: int = 0

    def pins(self, version: AdapterVersion) -> bool:
        """Whether a version stays loaded."""
        return version.loading == "pinned" or version.name in self.pinned

    def preloads(self, version: AdapterVersion) -> bool:
        """Whether a version is loaded before it is called."""
        return version.loading != "on demand" or version.name in self.pinned or version.name in self.preloaded


def loading_rules(settings: Settings) -> LoadingRules:
    """Return the rules that an operator chose."""
    return LoadingRules(
        settings.pinned_adapters, settings.preloaded_adapters, int(settings.adapter_memory_gib * (1 << 30))
    )
