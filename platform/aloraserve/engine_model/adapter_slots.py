"""Which adapters a modelled engine runs and has loaded, as vLLM's ``max_loras`` and ``max_cpu_loras`` have it."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable

from aloraserve.engine_model.calibration import AdapterTimes


class AdapterSlots:
    """Counts the requests of each running adapter, and keeps the adapters that were used last loaded.

    Every method takes None for the base model, which needs neither.

    Args:
        times: how many may run and stay, and how long a load takes.
    """

    def __init__(self, times: AdapterTimes) -> None:
        self.loads = 0
        self._times = times
        self._running: Counter[str] = Counter()
        self._resident: OrderedDict[str, None] = OrderedDict()

    @property
    def running(self) -> tuple[str, ...]:
        """Names of the adapters that run."""
        return tuple(self._running)

    @property
    def resident(self) -> tuple[str, ...]:
        """Names of the adapters that are loaded."""
        return tuple(self._resident)

    def preload(self, adapters: Iterable[str]) -> None:
        """Have adapters loaded that cost no request anything."""
        for adapter in adapters:
            self._resident[adapter] = None
            self._make_room()

    def unload(self, adapter: str) -> None:
        """Have an adapter loaded no more that does not run."""
        self._resident.pop(adapter, None)

    def has_room(self, adapter: str | None) -> bool:
        """Return whether a request of an adapter may run beside those that do."""
        return adapter is None or adapter in self._running or len(self._running) < self._times.slots

    def take(self, adapter: str | None) -> None:
        """Note that a request of an adapter runs."""
        if adapter is not None:
            self._running[adapter] += 1

    def release(self, adapter: str | None) -> None:
        """Note that a request of an adapter runs no more."""
        if adapter is not None:
            self._running[adapter] -= 1
            if not self._running[adapter]:
                del self._running[adapter]

    def load_s(self, adapter: str | None) -> float:
        """Load a running adapter if it is not there; return how long that holds the engine up.

        The one used longest ago that does not run makes room.
        """
        if adapter is None:
            return 0.0
        if adapter in self._resident:
            self._resident.move_to_end(adapter)
            return 0.0
        self._resident[adapter] = None
        self._make_room()
        self.loads += 1
        return self._times.load_s

    def _make_room(self) -> None:
        if len(self._resident) > self._times.resident:
            del self._resident[next(name for name in self._resident if name not in self._running)]
