"""A running platform as an operator of adapters sees it: what is served, by each gateway, and where it is loaded."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from aloraserve.settings import Settings
from aloraserve.wire.answer_stream import CallFailedError
from aloraserve_services.local.platform import LocalPlatform, local_platform
from aloraserve_services.models.hardware import preferred_dtype
from aloraserve_services.models.model_files import resolve_model
from aloraserve_services.models.untrained import write_untrained_adapters

ALIAS = "prod"
INTRINSIC = "safety"
CONNECTIONS = 12
"""A connection stays with one gateway: with two gateways, so many miss one in a run of 2,000."""
LOOK_EVERY_S = 0.02
PATIENCE_S = 60.0
TIMEOUT_S = 30.0


@contextlib.contextmanager
def adapter_platform(
    settings: Settings, folder: Path, names: Sequence[str], progress: Callable[[str], None]
) -> Iterator[LocalPlatform]:
    """Run a platform with untrained adapters, and room for others like them.

    Args:
        settings: of the platform; nothing but the model is taken from its state folder, or left there.
        folder: for its state instead.
        names: of the intrinsics; each has a plain LoRA twin.
        progress: called with what happens.
    """
    dtype = preferred_dtype() if settings.dtype == "auto" else settings.dtype
    _, model = resolve_model(settings.model, settings.state_dir, dtype, progress=progress)
    own = {"model": str(model), "state_dir": folder / "state", "adapters_dir": folder / "adapters"}
    write_untrained_adapters(folder / "adapters", model, names=names)
    with local_platform(settings.model_copy(update=own), progress=progress) as platform:
        yield platform


def write_contents(root: Path, model: Path, count: int) -> list[Path]:
    """Write contents of one aLoRA adapter, each with other weights; return their folders."""
    for seed in range(count):
        write_untrained_adapters(root / str(seed), model, seed, [INTRINSIC])
    return [root / str(seed) / INTRINSIC for seed in range(count)]


class AdapterFleet:
    """Calls the platform's routes of adapters, in a context. For one event loop.

    Args:
        url: of the platform.
        headers: of every call.
        replicas: that it has.
        name: of the adapter.

    Attributes:
        name: likewise.
    """

    def __init__(self, url: str, headers: Mapping[str, str], replicas: int, name: str) -> None:
        self.name = name
        self._url = url
        self._headers = headers
        self._replicas = replicas
        self._admin = self._connection()

    @classmethod
    def of(cls, platform: LocalPlatform, name: str) -> AdapterFleet:
        """Return the client of a platform for an adapter."""
        return cls(platform.url, platform.headers, platform.settings.replicas, name)

    async def __aenter__(self) -> AdapterFleet:
        """Return itself."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close the connections."""
        await self._admin.aclose()

    async def register(self, folder: Path, alias: str = "") -> str:
        """Register a content, and return the name of exactly this version.

        Args:
            folder: with it.
            alias: that is to point to it, empty for none.
        """
        body = {"name": self.name, "source": str(folder), "promote": False, "alias": alias}
        return str((await self._ask("POST", "/v1/adapters", body))["id"])

    async def point(self, alias: str, target: str) -> None:
        """Point an alias to a version."""
        await self._ask("PUT", f"/v1/adapters/{self.name}/aliases/{alias}", {"target": target})

    async def everywhere(self, alias: str, version: str) -> tuple[float, float]:
        """Wait until each gateway resolves an alias to a version, and until each replica has the version loaded.

        Returns:
            When both were so, on the clock of ``time.perf_counter``.
        """
        resolved, loaded = await asyncio.gather(self.resolved(alias, version), self.loaded(version))
        return resolved, loaded

    async def resolved(self, alias: str, version: str) -> float:
        """Wait until each gateway resolves an alias to a version; return when that was so."""
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(self._connection()) for _ in range(CONNECTIONS)]
            found = await asyncio.gather(*(self._resolved(client, alias, version) for client in clients))
        return max(found)

    async def loaded(self, version: str) -> float:
        """Wait until each replica says that it has a version loaded; return when that was so."""

        async def is_so() -> bool:
            found = await self._ask("GET", f"/v1/adapters/{version}")
            return len(found["versions"][0]["loaded"]) >= self._replicas

        return await _when(is_so, f"{version} loaded on {self._replicas} replicas")

    async def _resolved(self, client: httpx.AsyncClient, alias: str, version: str) -> float:
        async def is_so() -> bool:
            answer = await client.get(f"/v1/models/{self.name}@{alias}")
            return answer.status_code == httpx.codes.OK and answer.json()["root"] == version

        return await _when(is_so, f"{alias} at {version}")

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = await self._admin.request(method, path, json=body)
        if not answer.is_success:
            raise CallFailedError(f"{method} {path} answered {answer.status_code}: {answer.text[:300]}")
        return dict(answer.json())

    def _connection(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=1)
        return httpx.AsyncClient(
            base_url=self._url, headers=self._headers, limits=limits, timeout=TIMEOUT_S, trust_env=False
        )


async def _when(is_so: Callable[[], Awaitable[bool]], what: str) -> float:
    started = time.perf_counter()
    while not await is_so():
        if time.perf_counter() - started > PATIENCE_S:
            raise CallFailedError(f"{what}: not within {PATIENCE_S:g} s")
        await asyncio.sleep(LOOK_EVERY_S)
    return time.perf_counter()
