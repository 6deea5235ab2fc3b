"""Which adapter versions an engine has in the host's memory, and which of them makes room for another."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

HALF_LIFE_S = 60.0
"""How long a call counts in full, and then half of that. So an adapter that is called often does not leave for one that
is called once, and does leave once nobody calls it."""


@dataclass(slots=True)
class _Loaded:
    size_bytes: int
    calls: float
    counted_at: float
    pinned: bool


class HostMemory:
    """The versions in memory, by name. It loads nothing: who does asks it first, and then says so.

    Invariants: no more than ``capacity`` versions and ``max_bytes`` are in it; :meth:`victims` names no version that is
    held or pinned. Of the others the one leaves first that was called least lately: each call counts half after
    :data:`HALF_LIFE_S`, a quarter after twice that (LRFU: Lee et al., IEEE Transactions on Computers 50(12), 2001), so
    that order is neither that of the last call alone, which lets a row of calls for rare adapters evict all others, nor
    that of all calls ever.

    Args:
        capacity: versions.
        max_bytes: of their files together; 0: no limit.
        clock: monotonic seconds.
    """

    def __init__(self, capacity: int, max_bytes: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self.capacity = capacity
        self.max_bytes = max_bytes
        self._clock = clock
        self._loaded: dict[str, _Loaded] = {}
        self._holds: Counter[str] = Counter()

    def __contains__(self, version: str) -> bool:
        return version in self._loaded

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaded)

    def __len__(self) -> int:
        return len(self._loaded)

    @property
    def size_bytes(self) -> int:
        """Bytes of all versions in memory."""
        return sum(loaded.size_bytes for loaded in self._loaded.values())

    @property
    def pinned_bytes(self) -> int:
        """Bytes of the versions that stay."""
        return sum(loaded.size_bytes for loaded in self._loaded.values() if loaded.pinned)

    @property
    def pinned(self) -> list[str]:
        """The versions that stay."""
        return [version for version, loaded in self._loaded.items() if loaded.pinned]

    def is_held(self, version: str) -> bool:
        """Whether calls need a version."""
        return version in self._holds

    def hold(self, version: str) -> None:
        """Keep a version, in memory or about to be, until :meth:`release`: a call needs it."""
        self._holds[version] += 1
        if (loaded := self._loaded.get(version)) is not None:
            loaded.calls, loaded.counted_at = self._calls(loaded) + 1.0, self._clock()

    def release(self, version: str) -> None:
        """End one hold."""
        self._holds[version] -= 1
        if not self._holds[version]:
            del self._holds[version]

    def victims(self, size_bytes: int) -> list[str] | None:
        """Return the versions that have to leave before one of that size comes; None: calls need too many of them."""
        count = len(self._loaded) + 1 - self.capacity
        excess = self.size_bytes + size_bytes - self.max_bytes if self.max_bytes else 0
        leaving: list[str] = []
        for version in sorted(self._unused(), key=lambda version: self._calls(self._loaded[version])):
            if count <= 0 and excess <= 0:
                break
            leaving.append(version)
            count -= 1
            excess -= self._loaded[version].size_bytes
        return leaving if count <= 0 and excess <= 0 else None

    def add(self, version: str, size_bytes: int = 0, *, pinned: bool = False) -> None:
        """Note a version that was loaded."""
        self._loaded[version] = _Loaded(size_bytes, 1.0, self._clock(), pinned)

    def remove(self, version: str) -> None:
        """Note a version that is unloaded."""
        del self._loaded[version]

    def pin(self, version: str, *, pinned: bool) -> None:
        """Have a version in memory stay from now on, or not any more."""
        self._loaded[version].pinned = pinned

    def retire(self, version: str) -> None:
        """Have a version in memory leave before the others: it is not served any more."""
        loaded = self._loaded[version]
        loaded.calls, loaded.pinned = 0.0, False

    def _unused(self) -> list[str]:
        return [version for version, loaded in self._loaded.items() if not loaded.pinned and version not in self._holds]

    def _calls(self, loaded: _Loaded) -> float:
        return loaded.calls * math.exp2((loaded.counted_at - self._clock()) / HALF_LIFE_S)
