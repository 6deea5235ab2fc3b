"""What a modelled replica loads before its engine gets a call, with the platform's own choice of what leaves."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from aloraserve.adapters.host_memory import HostMemory
from aloraserve.engine_model.adapter_slots import AdapterSlots
from aloraserve.engine_model.calibration import AdapterTimes
from aloraserve.engine_model.request import RequestId
from aloraserve.simulation.simulated_loop import SimulatedLoop


class AdapterLoader:
    """One load after the other; the engine computes meanwhile.

    Args:
        times: how many may be loaded, and how long that takes.
        slots: of the engine.
        loop: simulated time.

    Attributes:
        loads: so far.
    """

    def __init__(self, times: AdapterTimes, slots: AdapterSlots, loop: SimulatedLoop) -> None:
        self.loads = 0
        self._load_s = times.load_s
        self._slots = slots
        self._loop = loop
        self._memory = HostMemory(times.resident, clock=loop.time)
        self._waiting: dict[str, dict[RequestId, Callable[[], None]]] = {}
        self._next: deque[str] = deque()
        self._is_loading = False

    @property
    def num_waiting(self) -> int:
        """How many calls wait for a load."""
        return sum(map(len, self._waiting.values()))

    def preload(self, adapters: Iterable[str]) -> None:
        """Note adapters that the engine begins with."""
        for adapter in adapters:
            self._memory.add(adapter)

    def hold(self, adapter: str, request: RequestId, on_loaded: Callable[[], None]) -> None:
        """Keep a request's adapter until :meth:`release`; call ``on_loaded`` once it is loaded, now if it is."""
        self._memory.hold(adapter)
        if adapter in self._memory:
            on_loaded()
            return
        if adapter not in self._waiting:
            self._next.append(adapter)
        self._waiting.setdefault(adapter, {})[request] = on_loaded
        self._begin()

    def release(self, adapter: str, request: RequestId) -> None:
        """End a request's hold, also of one that waits."""
        self._memory.release(adapter)
        self._waiting.get(adapter, {}).pop(request, None)
        self._begin()

    def stop(self) -> None:
        """Load nothing more: the engine is dead."""
        self._waiting.clear()
        self._next.clear()

    def _begin(self) -> None:
        """Begin the next load, if none runs and there is room."""
        if self._is_loading or not self._next or (leaving := self._memory.victims(0)) is None:
            return
        for adapter in leaving:
            self._memory.remove(adapter)
            self._slots.unload(adapter)
        self._is_loading = True
        self._loop.at(self._loop.now_s + self._load_s, self._loaded)

    def _loaded(self) -> None:
        self._is_loading = False
        if not self._next:
            return
        adapter = self._next.popleft()
        self.loads += 1
        self._memory.add(adapter)
        self._slots.preload([adapter])
        for on_loaded in self._waiting.pop(adapter).values():
            on_loaded()
        self._begin()
