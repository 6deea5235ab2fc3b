"""Versions that are not served any more, while requests may still run with them."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator

from aloraserve.adapters.base import AdapterRef, AdapterVersion

MAX_RETIRED = 64
RETIRED_S = 3600.0
"""How long after its last use a version can still be had: longer than a request waits and runs."""


class RetiredVersions:
    """The last :data:`MAX_RETIRED` of them. For one thread.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._versions: OrderedDict[str, tuple[AdapterVersion, float]] = OrderedDict()

    def __iter__(self) -> Iterator[AdapterVersion]:
        """All that are kept."""
        self._forget()
        return iter([version for version, _ in self._versions.values()])

    def add(self, version: AdapterVersion) -> None:
        """Keep a version from now on."""
        self._versions[version.engine_name] = (version, self._clock())
        self._versions.move_to_end(version.engine_name)
        self._forget()

    def get(self, ref: AdapterRef) -> AdapterVersion | None:
        """Return a version that is kept, and keep it longer."""
        kept = self._versions.get(ref.engine_name)
        if kept is None:
            return None
        self.add(kept[0])
        return kept[0]

    def discard(self, ref: AdapterRef) -> None:
        """Forget a version: it is served again."""
        self._versions.pop(ref.engine_name, None)

    def _forget(self) -> None:
        oldest = self._clock() - RETIRED_S
        while self._versions:
            key, (_, used_at) = next(iter(self._versions.items()))
            if len(self._versions) <= MAX_RETIRED and used_at >= oldest:
                return
            del self._versions[key]
