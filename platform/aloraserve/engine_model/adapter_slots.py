"""Which adapters a modelled engine runs and has loaded, as vLLM's ``max_loras`` and ``max_cpu_loras`` have it."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable

from aloraserve.engine_model.calibration import AdapterTimes


class AdapterSlots:
    """Counts the requests of each running adapter, and knows which are in slots and which are in the host's memory.

    As in vLLM, an adapter that runs is copied into a slot first, and one that is not in memory is loaded before that,
    amid the step; in both places the one that was used longest ago and does not run makes room. Who loads what is to
    run beforehand, and unloads in time, has no load in a step.

    Every method takes None for the base model, which needs neither.

    Args:
        times: how many may run and stay, and how long a load and a copy take.
    """

    def __init__(self, times: AdapterTimes) -> None:
        self.loads = 0
        self._times = times
        self._running: Counter[str] = Counter()
        self._resident: OrderedDict[str, None] = OrderedDict()
        self._slotted: OrderedDict[str, None] = OrderedDict()

    @property
    def running(self) -> tuple[str, ...]:
        """Names of the adapters that run."""
        return tuple(self._running)

    @property
    def resident(self) -> tuple[str, ...]:
        """Names of the adapters that are loaded."""
        return tuple(self._resident)

    @property
    def slotted(self) -> tuple[str, ...]:
        """Names of those that are in slots."""
        return tuple(self._slotted)

    def preload(self, adapters: Iterable[str]) -> None:
        """Have adapters loaded that cost no request anything, in slots where those are free."""
        for adapter in adapters:
            self._resident[adapter] = None
            self._make_room()
            if len(self._slotted) < self._times.slots:
                self._slotted[adapter] = None

    def unload(self, adapter: str) -> None:
        """Have an adapter loaded no more that does not run."""
        self._resident.pop(adapter, None)
        self._slotted.pop(adapter, None)

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
        """Have a running adapter in a slot; return how long that holds the engine up."""
        if adapter is None:
            return 0.0
        return self._loaded_s(adapter) + self._copied_s(adapter)

    def _loaded_s(self, adapter: str) -> float:
        if adapter in self._resident:
            self._resident.move_to_end(adapter)
            return 0.0
        self._resident[adapter] = None
        self._make_room()
        self.loads += 1
        return self._times.load_s

    def _copied_s(self, adapter: str) -> float:
        if adapter in self._slotted:
            self._slotted.move_to_end(adapter)
            return 0.0
        if len(self._slotted) >= self._times.slots:
            del self._slotted[self._idle(self._slotted)]
        self._slotted[adapter] = None
        return self._times.copy_s

    def _make_room(self) -> None:
        if len(self._resident) > self._times.resident:
            self.unload(self._idle(self._resident))

    def _idle(self, adapters: Iterable[str]) -> str:
        return next(name for name in adapters if name not in self._running)
