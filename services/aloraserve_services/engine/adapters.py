"""The adapter versions that one engine has loaded: this decides which, and loads them between the engine's steps.

vLLM left alone loads an adapter amid a step, when its request is scheduled, and an error there ends the engine. Here a
call reaches the engine once its version is in the host's memory and stays there until the call ends. Another version
leaves before one comes, so that the engine never has to choose, and what cannot be loaded fails its own calls alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager

import structlog

from aloraserve.adapters import AdapterRef, AdapterRegistry, AdapterVersion
from aloraserve.adapters.base import RegistryChange
from aloraserve.adapters.host_memory import HostMemory
from aloraserve.errors import InvalidAdapterError
from aloraserve.serving.engine_messages import EngineRefusal, EngineUnavailable
from aloraserve_services.engine.adapter_observer import AdapterObserver, NoObserver
from aloraserve_services.engine.base import Engine
from aloraserve_services.engine.loading_rules import LoadingRules

SWEEP_S = 5.0
"""How long a version that is not served stays loaded after its last call, or twice that."""
RETRY_S = 30.0
"""How long a version that could not be loaded is not tried again."""
MAX_FAILED = 256
MAX_REASON = 500
"""Characters of an engine's own words in the log."""
REMEMBERED_LOADS = 33

log = structlog.get_logger(__name__)

Waiting = Callable[[str], AbstractContextManager[None]]
NotLoaded = EngineRefusal | EngineUnavailable
"""Why a call cannot have its version: no engine can load it, or this replica cannot have it now."""


def _unchecked(version: AdapterVersion) -> int:
    return 0


class EngineAdapters:
    """Keeps an engine's versions up with a registry and with its calls.

    A call holds its version: whatever the registry serves meanwhile, it is answered with these weights to its end. A
    version that the registry has not noticed yet is looked for when a call asks for it.

    Args:
        engine: to load and unload them.
        registry: of this process.
        rules: see :class:`LoadingRules`.
        check: looks whether a version's files are what they were, and returns how many bytes they have; on another
            thread.
        sweep_s: see :data:`SWEEP_S`.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        engine: Engine,
        registry: AdapterRegistry,
        rules: LoadingRules | None = None,
        *,
        check: Callable[[AdapterVersion], int] = _unchecked,
        sweep_s: float = SWEEP_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._registry = registry
        self._rules = rules or LoadingRules()
        self._check = check
        self._sweep_s = sweep_s
        self._clock = clock
        self._memory = HostMemory(engine.adapter_capacity, self._rules.max_bytes, clock)
        self._loaded: dict[str, AdapterVersion] = {}
        self._loading: dict[str, asyncio.Task[NotLoaded | None]] = {}
        self._failed: dict[str, tuple[EngineRefusal, float]] = {}
        self._load_times_s: deque[float] = deque(maxlen=REMEMBERED_LOADS)
        self._idle: set[str] = set()
        self._changing = asyncio.Lock()
        self._released = asyncio.Event()
        self._on_change: Callable[[], None] = lambda: None
        self._observer: AdapterObserver = NoObserver()
        self._waiting: Waiting = lambda name: contextlib.nullcontext()

    @property
    def load_s(self) -> float:
        """How long loading one takes, typically; 0 before the first."""
        return statistics.median(self._load_times_s) if self._load_times_s else 0.0

    @property
    def versions(self) -> list[AdapterVersion]:
        """The versions that are loaded."""
        return list(self._loaded.values())

    @property
    def pinned(self) -> list[AdapterVersion]:
        """Of those, the ones that stay."""
        return [self._loaded[name] for name in self._memory.pinned]

    def notify(self, on_change: Callable[[], None]) -> None:
        """Have ``on_change`` called at further loads and unloads."""
        self._on_change = on_change

    def observe(self, observer: AdapterObserver) -> None:
        """Report hits, loads and what leaves from now on."""
        self._observer = observer

    def watch_loads(self, waiting: Waiting) -> None:
        """Have ``waiting`` entered while the engine loads something."""
        self._waiting = waiting

    async def load(self, due: Sequence[str] = ()) -> int:
        """Load what is to be there before it is called, and of the others as many as may run at once.

        First calls do not pay for those. The others load when they are first called.

        Args:
            due: keys of the versions that are expected to be called, the most wanted first.

        Returns:
            How many were loaded.
        """
        served = self._registry.all()
        first = sorted(filter(self._rules.preloads, served), key=lambda version: not self._rules.pins(version))
        wanted = {key: place for place, key in enumerate(due)}
        others = [version for version in served if not self._rules.preloads(version)]
        others.sort(key=lambda version: wanted.get(version.key, len(wanted)))
        for version in [*first, *others[: max(self._engine.adapter_slots - len(first), 0)]]:
            if self._memory.victims(version.size_bytes) != []:
                log.warning("adapters_not_preloaded", capacity=self._memory.capacity, preloaded=len(first))
                break
            await self._load(version)
        return len(self._loaded)

    async def hold(self, ref: AdapterRef) -> NotLoaded | None:
        """Have the engine able to run a version until :meth:`release`; return why it cannot be had, None if it can.

        It waits while calls need as many other versions as the engine has room for.
        """
        name = ref.engine_name
        self._memory.hold(name)
        try:
            problem = None
            if (version := self._loaded.get(name)) is not None:
                self._observer.hit(version)
            else:
                problem = await self._find(ref)
        except BaseException:
            self._release(name)
            raise
        if problem is not None:
            self._release(name)
        return problem

    def release(self, ref: AdapterRef) -> None:
        """End one hold."""
        self._release(ref.engine_name)

    def invocation_ids(self, ref: AdapterRef) -> tuple[int, ...]:
        """Return a held version's invocation; a plain LoRA's is empty."""
        return self._loaded[ref.engine_name].invocation_ids

    async def follow(self) -> None:
        """Load what comes to be served and is not to wait for its first call, until cancelled.

        That is a new version of an adapter that is loaded here, what is pinned or preloaded, and anything while fewer
        are loaded than may run at once. A version that the engine cannot load hides no other.
        """
        changes = self._registry.watch()
        # What is served already loads when it is called, where it has not yet.
        await anext(changes)
        async for change in changes:
            await self._take(change)

    async def sweep(self) -> None:
        """Unload what is neither served nor called, now and then, until cancelled."""
        while True:
            await asyncio.sleep(self._sweep_s)
            await self.unload_unused()

    async def unload_unused(self) -> None:
        """Unload what was neither served nor called now and at the last look; pin what is to be pinned by now."""
        async with self._changing:
            served = {version.engine_name: version for version in self._registry.all()}
            for name in self._loaded.keys() & served.keys():
                self._keep(served[name])
            idle = {name for name in self._loaded.keys() - served.keys() if not self._memory.is_held(name)}
            for name in idle & self._idle:
                if not self._memory.is_held(name):
                    await self._unload(name)
            self._idle = idle & self._loaded.keys()

    async def _take(self, change: RegistryChange) -> None:
        for version in change.removed:
            if version.engine_name in self._loaded:
                self._memory.retire(version.engine_name)
        served = {version.engine_name for version in self._registry.all()}
        # What takes a loaded one's place goes before what only fills a free one.
        for version in sorted(change.added, key=self._is_expected, reverse=True):
            if version.engine_name in self._loaded:
                self._keep(version)
            # Where calls need all that is loaded, it waits for its own first call.
            elif self._comes_first(version, served) and self._memory.victims(version.size_bytes) is not None:
                await self._load(version)

    def _keep(self, version: AdapterVersion) -> None:
        """Take what is said now of a version that is loaded: labels change, its content does not."""
        self._loaded[version.engine_name] = version
        self._memory.pin(version.engine_name, pinned=self._may_pin(version))

    def _is_expected(self, version: AdapterVersion) -> bool:
        return self._rules.preloads(version) or any(loaded.name == version.name for loaded in self._loaded.values())

    def _comes_first(self, version: AdapterVersion, served: Collection[str]) -> bool:
        if self._is_expected(version):
            return True
        # What is not served any more leaves soon.
        return sum(name in served for name in self._loaded) < self._engine.adapter_slots

    def _may_pin(self, version: AdapterVersion) -> bool:
        """Whether a version stays; one place is left to all that does not."""
        if not self._rules.pins(version):
            return False
        others = [name for name in self._memory.pinned if name != version.engine_name]
        if len(others) + 1 < self._memory.capacity:
            return True
        log.warning("adapter_not_pinned", adapter=version.engine_name, capacity=self._memory.capacity)
        return False

    def _release(self, name: str) -> None:
        self._memory.release(name)
        self._released.set()

    async def _find(self, ref: AdapterRef) -> NotLoaded | None:
        version = await self._registry.find(ref)
        if version is None:
            return EngineUnavailable(f"a replica does not have the version of adapter {ref.name!r} that is served")
        return await self._load(version)

    async def _load(self, version: AdapterVersion) -> NotLoaded | None:
        """Have a version loaded, once for all that ask; who goes away meanwhile leaves it to be loaded."""
        name = version.engine_name
        if name not in self._loading:
            self._loading[name] = asyncio.create_task(self._load_now(version), name=f"load {name}")
            self._loading[name].add_done_callback(lambda _: self._loading.pop(name))
        return await asyncio.shield(self._loading[name])

    async def _load_now(self, version: AdapterVersion) -> NotLoaded | None:
        """Load a version unless it is there; return why that fails, if it does."""
        if (known := self._known_failure(version)) is not None:
            return known
        try:
            begun_at = self._clock()
            size_bytes = await asyncio.to_thread(self._check, version)
            checked_s = self._clock() - begun_at
            async with self._changing:
                if version.engine_name in self._loaded:
                    return None
                await self._make_room(size_bytes)
                begun_at = self._clock()
                with self._waiting(f"load {version.engine_name}"):
                    await self._engine.add_adapter(version)
                self._note(version, size_bytes, checked_s + self._clock() - begun_at)
        except InvalidAdapterError as error:
            return self._failure(version, error)
        return None

    def _note(self, version: AdapterVersion, size_bytes: int, seconds: float) -> None:
        self._loaded[version.engine_name] = version
        self._memory.add(version.engine_name, size_bytes, pinned=self._may_pin(version))
        self._load_times_s.append(seconds)
        self._observer.loaded(version, seconds)
        self._on_change()

    async def _make_room(self, size_bytes: int) -> None:
        """Unload until there is room for one more; wait while calls need all that is loaded."""
        self._check_size(size_bytes)
        while (leaving := self._memory.victims(size_bytes)) != []:
            if leaving is None:
                self._released.clear()
                await self._released.wait()
            else:
                await self._unload(leaving[0])

    def _check_size(self, size_bytes: int) -> None:
        """Refuse what has no room, whatever else leaves: it would wait for ever, and every other load behind it."""
        if not self._memory.max_bytes:
            return
        pinned = self._memory.pinned_bytes
        most, beside = self._memory.max_bytes - pinned, " beside what is pinned" if pinned else ""
        if size_bytes > most:
            raise InvalidAdapterError(f"its files have {size_bytes} bytes; a replica loads {most} at most{beside}")

    async def _unload(self, name: str) -> None:
        # Forgotten first: a call that comes meanwhile waits and has it loaded again.
        version = self._loaded.pop(name)
        self._memory.remove(name)
        await self._engine.remove_adapter(version)
        self._observer.evicted(version)
        self._on_change()

    def _known_failure(self, version: AdapterVersion) -> EngineRefusal | None:
        failure, failed_at = self._failed.get(version.engine_name, (None, 0.0))
        if failure is None or self._clock() - failed_at < RETRY_S:
            return failure
        del self._failed[version.engine_name]
        return None

    def _failure(self, version: AdapterVersion, error: InvalidAdapterError) -> NotLoaded:
        """Return why a version cannot be loaded; the engine's own words are for the log alone: they name paths."""
        log.warning("adapter_not_loaded", adapter=version.engine_name, cause=error.message, reason=_reason(error))
        self._observer.failed(version)
        message = f"adapter {version.name!r} cannot be loaded: {error.message}"
        if isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, FileNotFoundError):
            return EngineUnavailable(message)
        if len(self._failed) >= MAX_FAILED:
            self._failed.clear()
        refusal = EngineRefusal(message, "model", is_adapter_fault=True)
        self._failed[version.engine_name] = refusal, self._clock()
        return refusal


def _reason(error: InvalidAdapterError) -> str | None:
    """Return the engine's own words on one line."""
    return None if error.__cause__ is None else " ".join(str(error.__cause__).split())[:MAX_REASON]
