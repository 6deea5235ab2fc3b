"""The adapter versions that one engine can run: those that are served, and those that its calls still need."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from aloraserve.adapters import AdapterRef, AdapterRegistry, AdapterVersion
from aloraserve.errors import InvalidAdapterError
from aloraserve_services.engine.base import Engine

SWEEP_S = 5.0
"""How long a version that is not served stays loaded after its last call, or twice that."""
MAX_FAILED = 256
MAX_REASON = 500
"""Characters of an engine's own words in the log."""

log = structlog.get_logger(__name__)


class EngineAdapters:
    """Keeps an engine's versions up with a registry.

    A call holds its version: whatever the registry serves meanwhile, it is answered with these weights to its end. A
    version that the registry has not noticed yet is looked for when a call asks for it.

    Args:
        engine: to load and unload them.
        registry: of this process.
        sweep_s: see :data:`SWEEP_S`.
    """

    def __init__(self, engine: Engine, registry: AdapterRegistry, *, sweep_s: float = SWEEP_S) -> None:
        self._engine = engine
        self._registry = registry
        self._sweep_s = sweep_s
        self._loaded: dict[str, AdapterVersion] = {}
        self._calls: dict[str, int] = {}
        self._idle: set[str] = set()
        self._failed: dict[str, str] = {}
        self._changing = asyncio.Lock()
        self._on_change: Callable[[], None] = lambda: None

    def observe(self, on_change: Callable[[], None]) -> None:
        """Have further loads and unloads reported."""
        self._on_change = on_change

    async def load(self) -> int:
        """Load as many as may run at once, so that first calls do not pay for it; return how many were loaded.

        The others load when they are first called.
        """
        for version in self._registry.all()[: self._engine.adapter_slots]:
            await self._add(version)
        return len(self._loaded)

    async def hold(self, ref: AdapterRef) -> str | None:
        """Have the engine able to run a version until :meth:`release`; return why it cannot be had, None if it can."""
        name = ref.engine_name
        if name not in self._loaded and (problem := await self._find(ref)) is not None:
            return problem
        self._calls[name] = self._calls.get(name, 0) + 1
        return None

    def release(self, ref: AdapterRef) -> None:
        """End one hold."""
        left = self._calls[ref.engine_name] - 1
        if left:
            self._calls[ref.engine_name] = left
        else:
            del self._calls[ref.engine_name]

    def invocation_ids(self, ref: AdapterRef) -> tuple[int, ...]:
        """Return a held version's invocation; a plain LoRA's is empty."""
        return self._loaded[ref.engine_name].invocation_ids

    async def follow(self) -> None:
        """Load what comes to be served, until cancelled; a version that the engine cannot load hides no other."""
        changes = self._registry.watch()
        # What is served already loads when it is called, where it has not yet.
        await anext(changes)
        async for change in changes:
            for version in change.added:
                await self._add(version)

    async def sweep(self) -> None:
        """Unload what is neither served nor called, now and then, until cancelled."""
        while True:
            await asyncio.sleep(self._sweep_s)
            await self.unload_unused()

    async def unload_unused(self) -> None:
        """Unload what was neither served nor called now and at the last look."""
        async with self._changing:
            served = {version.engine_name for version in self._registry.all()}
            idle = self._loaded.keys() - served - self._calls.keys()
            for name in idle & self._idle:
                if name not in self._calls:
                    # Forgotten first: a call that comes meanwhile waits and has it loaded again.
                    await self._engine.remove_adapter(self._loaded.pop(name))
                    self._on_change()
            self._idle = idle & self._loaded.keys()

    async def _find(self, ref: AdapterRef) -> str | None:
        version = await self._registry.find(ref)
        if version is None:
            return f"a replica does not have the version of adapter {ref.name!r} that is served"
        return await self._add(version)

    async def _add(self, version: AdapterVersion) -> str | None:
        """Load a version unless it is there; return why that fails, if it does."""
        name = version.engine_name
        async with self._changing:
            if name in self._loaded or name in self._failed:
                return self._failed.get(name)
            try:
                await self._engine.add_adapter(version)
            except InvalidAdapterError as error:
                if len(self._failed) >= MAX_FAILED:
                    self._failed.clear()
                self._failed[name] = error.message
                log.warning("adapter_not_loaded", adapter=name, cause=error.message, reason=_reason(error))
                return error.message
            self._loaded[name] = version
            self._on_change()
            return None


def _reason(error: InvalidAdapterError) -> str | None:
    """Return the engine's own words on one line, for the log alone: they name paths, and clients see the message."""
    return None if error.__cause__ is None else " ".join(str(error.__cause__).split())[:MAX_REASON]
