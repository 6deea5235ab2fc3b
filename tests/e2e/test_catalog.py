"""An alias that switches under streams, and what was registered after a restart with an empty server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from redis import Redis
from support.own_valkey import socket_url, valkey_server
from support.redis_deployments import free_port

from aloraserve.adapters.catalog import AdapterEntry
from aloraserve.adapters.management import AdapterManager, RegistrationRequest
from aloraserve.settings import load_settings
from aloraserve_services.gateway.adapters import GatewayAdapters
from aloraserve_services.models.untrained import write_untrained_adapters
from aloraserve_services.plan import make_plan

STREAMS = 16
SWITCHES = 6
ANSWERS = 8
"""Answers between two switches."""

pytestmark = [pytest.mark.e2e, pytest.mark.untimed, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    with valkey_server() as running:
        yield running


@pytest.fixture(scope="module")
def up(
    server: Any, model_path: Path, tmp_path_factory: pytest.TempPathFactory, command: Callable[..., Any]
) -> Callable[[], Any]:
    """Run two gateways and two simulated replicas, each time over the same state folder; a context with the URL."""
    state, dropped = tmp_path_factory.mktemp("catalog-state"), tmp_path_factory.mktemp("nothing-dropped")
    same = ("--model", str(model_path), "--state-dir", str(state), "--adapters-dir", str(dropped))

    @contextlib.contextmanager
    def running(port: int) -> Iterator[str]:
        fleet = ("--engine", "simulated", "--replicas", "2", "--gateways", "2", "--redis-url", socket_url(server))
        started = command("up", "--detach", "--port", str(port), *same, *fleet)
        assert started.returncode == 0, started.stderr + (state / "up.log").read_text()
        try:
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            assert command("down", "--state-dir", str(state)).returncode == 0

    running.state, running.dropped = state, dropped  # type: ignore[attr-defined]
    return running  # type: ignore[return-value]


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory, model_path: Path) -> list[Path]:
    """Folders of two contents of the same adapter."""
    roots = [tmp_path_factory.mktemp(f"seed-{seed}") for seed in (7, 8)]
    for seed, root in zip((7, 8), roots, strict=True):
        write_untrained_adapters(root, model_path, seed, ["safety"])
    return [root / "safety" for root in roots]


@contextlib.asynccontextmanager
async def managing(up: Any, server: Any, model_path: Path) -> AsyncIterator[AdapterManager]:
    """One gateway more, of the test's own, without calls."""
    settings = load_settings(
        engine="simulated",
        model=str(model_path),
        state_dir=up.state,
        adapters_dir=up.dropped,
        redis_url=socket_url(server),
    )
    gateway = GatewayAdapters(await asyncio.to_thread(make_plan, settings), [])
    async with gateway.running():
        yield gateway.manager


async def register(manager: AdapterManager, folder: Path) -> AdapterEntry:
    return await (await manager.register(RegistrationRequest("safety", str(folder)))).finished()


class Streams:
    """Conversations that go on and on with one alias, and how each of their answers has to be.

    Args:
        client: of the platform.
        versions: exact names of the versions that may answer.
    """

    def __init__(self, client: openai.AsyncOpenAI, versions: list[str]) -> None:
        self._client = client
        self._versions = versions
        self._expected: dict[int, list[str]] = {}
        self.answers: list[int] = []
        self._counted = asyncio.Condition()

    async def learn(self) -> None:
        """Ask each version for its answer to each question."""
        for number in range(STREAMS):
            self._expected[number] = [await self._answer(version, number) for version in self._versions]
            assert len(set(self._expected[number])) == len(self._versions)

    async def run(self, number: int, alias: str) -> None:
        """Ask one question again and again; each answer is one version's, from the first word to the last."""
        while True:
            text = await self._answer(alias, number)
            assert text in self._expected[number], "the answer is of no version, or of both"
            async with self._counted:
                self.answers.append(self._expected[number].index(text))
                self._counted.notify_all()

    async def more(self, version: int) -> None:
        """Wait for some answers of a version."""
        wanted = self.answers.count(version) + ANSWERS
        async with self._counted:
            await self._counted.wait_for(lambda: self.answers.count(version) >= wanted)

    async def _answer(self, model: str, number: int) -> str:
        messages: Any = [{"role": "user", "content": f"{number}: tell me about lighthouses. " * 20}]
        stream = await self._client.chat.completions.create(
            model=model, messages=messages, max_tokens=24, temperature=0, stream=True
        )
        chunks = [chunk.choices[0] async for chunk in stream if chunk.choices]
        assert chunks[-1].finish_reason in ("length", "stop")
        return "".join(choice.delta.content or "" for choice in chunks)


async def test_an_alias_switches_under_streams_and_outlives_a_restart(
    up: Any, server: Any, model_path: Path, contents: list[Path]
) -> None:
    """Two gateways: no call fails, none is answered by two versions, and each switch is seen by all."""
    with up(free_port()) as url:
        async with (
            managing(up, server, model_path) as manager,
            openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as client,
        ):
            versions = [(await register(manager, folder)).shown for folder in contents]
            await manager.point("safety@prod", versions[0])
            streams = Streams(client, versions)
            await until_served(client, versions)
            await streams.learn()
            running = [asyncio.create_task(streams.run(number, "safety@prod")) for number in range(STREAMS)]
            try:
                async with asyncio.timeout(120):
                    await streams.more(0)
                    for switch in range(SWITCHES):
                        target = (switch + 1) % 2
                        await (
                            manager.roll_back("safety@prod")
                            if switch % 3 == 2
                            else manager.point("safety@prod", versions[target])
                        )
                        await streams.more(target)
            finally:
                for task in running:
                    task.cancel()
                outcomes = await asyncio.gather(*running, return_exceptions=True)
            assert [outcome for outcome in outcomes if not isinstance(outcome, asyncio.CancelledError)] == []
            await manager.retire(versions[1], reason="it is replaced")
            with pytest.raises(openai.NotFoundError, match="is retired and takes no calls: it is replaced"):
                await until_refused(client, versions[1])
            before = await manager.get("safety")
    Redis(unix_socket_path=str(server.unix_socket_path)).flushall()
    with up(free_port()) as url:
        async with (
            managing(up, server, model_path) as manager,
            openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as client,
        ):
            assert (await manager.get("safety")).aliases == before.aliases
            await until_served(client, versions[:1])


async def until_served(client: openai.AsyncOpenAI, models: list[str]) -> None:
    """Ask until each of both gateways has answered for each model."""
    async with asyncio.timeout(30):
        for model in models * 4:
            await until_answered(client, model)


async def until_answered(client: openai.AsyncOpenAI, model: str) -> None:
    while True:
        try:
            await client.completions.create(model=model, prompt="x", max_tokens=1)
            return
        except openai.NotFoundError:
            await asyncio.sleep(0.1)


async def until_refused(client: openai.AsyncOpenAI, model: str) -> None:
    """Ask until it is refused."""
    async with asyncio.timeout(30):
        while True:
            await client.completions.create(model=model, prompt="x", max_tokens=1)
            await asyncio.sleep(0.1)
