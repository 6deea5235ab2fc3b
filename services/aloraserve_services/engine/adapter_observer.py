"""Who learns what becomes of an engine's adapters: metrics stand behind it, from outside."""

from __future__ import annotations

from typing import Protocol

from aloraserve.adapters import AdapterVersion


class AdapterObserver(Protocol):
    """Learns what becomes of an engine's adapters."""

    def hit(self, version: AdapterVersion) -> None:
        """Note a call whose version was there."""
        ...

    def loaded(self, version: AdapterVersion, seconds: float) -> None:
        """Note a load, and what it took."""
        ...

    def evicted(self, version: AdapterVersion) -> None:
        """Note a version that left, for another one or because it is not served any more."""
        ...

    def failed(self, version: AdapterVersion) -> None:
        """Note a load that failed."""
        ...


class NoObserver:
    """Nobody does."""

    def hit(self, version: AdapterVersion) -> None:
        """Do nothing."""

    def loaded(self, version: AdapterVersion, seconds: float) -> None:
        """Do nothing."""

    def evicted(self, version: AdapterVersion) -> None:
        """Do nothing."""

    def failed(self, version: AdapterVersion) -> None:
        """Do nothing."""
