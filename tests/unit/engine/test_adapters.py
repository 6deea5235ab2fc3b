"""An engine's adapter versions: those that are served, and those that its calls still need."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest
from structlog.testing import capture_logs
from support.engine_host import PLAIN, RecordingDirectory, engine_call, simulated_parts, started_host

from aloraserve.adapters import AdapterRef, AdapterVersion, StaticRegistry
from aloraserve.errors import InvalidAdapterError
from aloraserve.serving.engine_messages import EngineChunk, EngineUnavailable
from aloraserve_services.engine.adapters import MAX_FAILED, MAX_REASON, EngineAdapters
from aloraserve_services.engine.simulated.engine import SimulatedEngine

CHANGED = replace(PLAIN, digest="other digest of plain")
REASON = "/state/other: LoRA rank 512 is greater than max_lora_rank 16.\n" + "at line 1\n" * 100
OTHERS = [replace(PLAIN, name=f"other-{number}", digest=f"digest {number}") for number in range(3)]


class Engine(SimulatedEngine):
    """Notes what it is asked to do, and cannot load what the test names."""

    bad: set[str]
    done: list[tuple[str, str]]
    asked: asyncio.Event
    may_remove: asyncio.Event

    @classmethod
    def made(cls) -> Engine:
        engine, _ = simulated_parts(cls)
        assert isinstance(engine, cls)
        engine.bad, engine.done, engine.asked = set(), [], asyncio.Event()
        engine.may_remove = asyncio.Event()
        engine.may_remove.set()
        return engine

    async def add_adapter(self, version: AdapterVersion) -> None:
        self.done.append(("add", version.engine_name))
        self.asked.set()
        if version.engine_name in self.bad:
            raise InvalidAdapterError("the engine cannot load it: ValueError") from ValueError(REASON)
        await super().add_adapter(version)

    async def remove_adapter(self, version: AdapterVersion) -> None:
        self.done.append(("remove", version.engine_name))
        await self.may_remove.wait()
        await super().remove_adapter(version)


@pytest.fixture
def engine() -> Engine:
    return Engine.made()


@pytest.fixture
def registry() -> StaticRegistry:
    return StaticRegistry([PLAIN])


@pytest.fixture
def adapters(engine: Engine, registry: StaticRegistry) -> EngineAdapters:
    return EngineAdapters(engine, registry)


@pytest.fixture
async def following(adapters: EngineAdapters) -> AsyncIterator[Callable[[], None]]:
    task = asyncio.create_task(adapters.follow())
    await asyncio.sleep(0)
    yield task.cancel
    task.cancel()


async def until_added(engine: Engine, version: AdapterVersion) -> None:
    async with asyncio.timeout(5):
        while ("add", version.engine_name) not in engine.done:
            engine.asked.clear()
            await engine.asked.wait()


async def test_as_many_as_may_run_at_once_are_loaded_at_the_start(engine: Engine) -> None:
    adapters = EngineAdapters(engine, StaticRegistry(OTHERS))
    assert await adapters.load() == engine.adapter_slots == 2
    assert await engine.resident() == ("other-0", "other-1")


async def test_another_one_loads_when_it_is_called(engine: Engine) -> None:
    adapters = EngineAdapters(engine, StaticRegistry(OTHERS))
    await adapters.load()
    assert await adapters.hold(OTHERS[2].ref) is None
    assert engine.done[-1] == ("add", OTHERS[2].engine_name)


async def test_what_comes_to_be_served_is_loaded_before_it_is_called(
    engine: Engine, registry: StaticRegistry, adapters: EngineAdapters, following: Callable[[], None]
) -> None:
    await adapters.load()
    registry.publish([PLAIN, OTHERS[0]])
    await until_added(engine, OTHERS[0])


async def test_one_that_cannot_be_loaded_hides_no_other_and_is_tried_once(
    engine: Engine, registry: StaticRegistry, adapters: EngineAdapters, following: Callable[[], None]
) -> None:
    await adapters.load()
    engine.bad = {OTHERS[0].engine_name}
    registry.publish([PLAIN, *OTHERS[:2]])
    await until_added(engine, OTHERS[1])
    for _ in range(3):
        assert await adapters.hold(OTHERS[0].ref) == "the engine cannot load it: ValueError"
    assert engine.done.count(("add", OTHERS[0].engine_name)) == 1
    assert await adapters.hold(OTHERS[1].ref) is None


async def test_an_engines_own_words_on_a_failed_load_reach_the_log_and_no_client(
    engine: Engine, registry: StaticRegistry, adapters: EngineAdapters
) -> None:
    """On one line, and not more than a line."""
    registry.publish([OTHERS[0]])
    engine.bad = {OTHERS[0].engine_name}
    with capture_logs() as logs:
        assert await adapters.hold(OTHERS[0].ref) == "the engine cannot load it: ValueError"
    (logged,) = [line for line in logs if line["event"] == "adapter_not_loaded"]
    assert logged["adapter"] == OTHERS[0].engine_name
    assert logged["reason"].startswith("/state/other: LoRA rank 512 is greater than max_lora_rank 16. at")
    assert len(logged["reason"]) == MAX_REASON


async def test_a_version_that_the_registry_has_never_seen_cannot_be_had(adapters: EngineAdapters) -> None:
    await adapters.load()
    assert await adapters.hold(CHANGED.ref) == ("a replica does not have the version of adapter 'plain' that is served")


async def test_a_version_that_is_not_served_any_more_can_be_had_as_long_as_it_is_found(
    engine: Engine, registry: StaticRegistry, adapters: EngineAdapters
) -> None:
    registry.publish([CHANGED])
    await adapters.load()
    assert await adapters.hold(PLAIN.ref) is None
    assert engine.done == [("add", CHANGED.engine_name), ("add", PLAIN.engine_name)]


async def test_what_is_neither_served_nor_called_is_unloaded_at_the_second_look(
    engine: Engine, registry: StaticRegistry, adapters: EngineAdapters
) -> None:
    await adapters.load()
    await adapters.hold(PLAIN.ref)
    registry.publish([CHANGED])
    for _ in range(3):
        await adapters.unload_unused()
    adapters.release(PLAIN.ref)
    await adapters.unload_unused()
    assert engine.done == [("add", PLAIN.engine_name)]
    await adapters.unload_unused()
    assert engine.done[1:] == [("remove", PLAIN.engine_name)]


async def test_a_call_between_the_looks_keeps_its_version(
    engine: Engine, registry: StaticRegistry, adapters: EngineAdapters
) -> None:
    await adapters.load()
    registry.publish([])
    await adapters.unload_unused()
    await adapters.hold(PLAIN.ref)
    await adapters.unload_unused()
    adapters.release(PLAIN.ref)
    await adapters.unload_unused()
    assert ("remove", PLAIN.engine_name) not in engine.done


async def test_a_call_that_comes_while_its_version_is_unloaded_has_it_loaded_again(
    engine: Engine, registry: StaticRegistry, adapters: EngineAdapters
) -> None:
    await adapters.load()
    registry.publish([])
    await adapters.unload_unused()
    looks = asyncio.create_task(adapters.unload_unused())
    await asyncio.sleep(0)
    assert await adapters.hold(PLAIN.ref) is None
    await looks
    assert engine.done[-1] == ("add", PLAIN.engine_name)


async def test_a_call_that_comes_while_another_version_is_unloaded_keeps_its_own(
    engine: Engine, registry: StaticRegistry
) -> None:
    registry.publish(OTHERS[:2])
    adapters = EngineAdapters(engine, registry)
    await adapters.load()
    registry.publish([])
    await adapters.unload_unused()
    engine.may_remove.clear()
    looks = asyncio.create_task(adapters.unload_unused())
    await asyncio.sleep(0)
    ((_, first),) = [entry for entry in engine.done if entry[0] == "remove"]
    (other,) = [version for version in OTHERS[:2] if version.engine_name != first]
    assert await adapters.hold(other.ref) is None
    engine.may_remove.set()
    await looks
    assert ("remove", other.engine_name) not in engine.done


async def test_failures_that_are_remembered_are_bounded(engine: Engine) -> None:
    versions = [replace(PLAIN, digest=f"digest {number}") for number in range(MAX_FAILED + 1)]
    engine.bad = {version.engine_name for version in versions}
    registry = StaticRegistry()
    for version in versions:
        registry.publish([version])
    adapters = EngineAdapters(engine, registry)
    for version in versions:
        await adapters.hold(version.ref)
    assert len(adapters._failed) <= MAX_FAILED


class TestInAReplica:
    async def test_a_call_is_answered_by_the_version_that_it_names(self) -> None:
        async with started_host(RecordingDirectory(), PLAIN) as started:
            started.registry.publish([CHANGED])
            old = await started.answer(engine_call("old", adapter=PLAIN, max_tokens=3))
            new = await started.answer(engine_call("new", adapter=CHANGED, max_tokens=3))
            texts = ["".join(reply.text for reply in replies) for replies in (old, new)]
            assert texts[0] != texts[1]
            assert [replies[0].cached_tokens for replies in (old, new)] == [0, 0], "another version, another prefix"
            again = await started.answer(engine_call("again", adapter=CHANGED, max_tokens=3))
            assert again[0].cached_tokens > 0

    async def test_a_call_for_a_version_that_cannot_be_had_is_another_replica_s(self) -> None:
        async with started_host(RecordingDirectory(), PLAIN) as started:
            (reply,) = await started.answer(engine_call(adapter=CHANGED))
            assert reply == EngineUnavailable("a replica does not have the version of adapter 'plain' that is served")

    async def test_a_call_ends_with_the_weights_that_it_began_with(self) -> None:
        async with started_host(RecordingDirectory(), PLAIN) as started:
            running = started.host.generate(engine_call("long", adapter=PLAIN, max_tokens=50))
            first = await anext(running)
            started.registry.publish([CHANGED])
            for _ in range(3):
                await started.adapters.unload_unused()
            rest = [reply async for reply in running]
            assert isinstance(first, EngineChunk)
            assert isinstance(rest[-1], EngineChunk)
            assert rest[-1].finish_reason == "length"
            for _ in range(2):
                await started.adapters.unload_unused()
            whole = "".join(reply.text for reply in [first, *rest] if isinstance(reply, EngineChunk))
            same = await started.answer(engine_call("same", adapter=PLAIN, max_tokens=50))
            assert "".join(reply.text for reply in same) == whole

    async def test_loaded_adapters_are_published_without_a_call(self) -> None:
        directory = RecordingDirectory()
        async with started_host(directory, PLAIN) as started:
            started.registry.publish([PLAIN, OTHERS[0]])
            async with asyncio.timeout(10):
                while directory.published[-1].resident != ("other-0", "plain"):
                    await directory.until(len(directory.published) + 1)


def test_a_reference_says_nothing_of_files() -> None:
    assert PLAIN.ref == AdapterRef("plain", "lora", "digest of plain")
