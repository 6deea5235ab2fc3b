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
from aloraserve.serving.engine_messages import EngineChunk, EngineRefusal, EngineUnavailable
from aloraserve_services.engine.adapters import MAX_FAILED, MAX_REASON, RETRY_S, EngineAdapters
from aloraserve_services.engine.loading_rules import LoadingRules
from aloraserve_services.engine.simulated.engine import SimulatedEngine

CHANGED = replace(PLAIN, digest="other digest of plain")
REASON = "/state/other: LoRA rank 512 is greater than max_lora_rank 16.\n" + "at line 1\n" * 100
NOT_HERE = EngineUnavailable("a replica does not have the version of adapter 'plain' that is served")
NOT_LOADED = EngineRefusal(
    "adapter 'other-0' cannot be loaded: the engine cannot load it: ValueError", "model", is_adapter_fault=True
)
OTHERS = [replace(PLAIN, name=f"other-{number}", digest=f"digest {number}") for number in range(3)]


class Engine(SimulatedEngine):
    """Notes what it is asked to do, and cannot load what the test names."""

    bad: set[str]
    done: list[tuple[str, str]]
    asked: asyncio.Event
    may_add: asyncio.Event
    may_remove: asyncio.Event
    most: int
    """Versions that were loaded at once."""

    @classmethod
    def made(cls) -> Engine:
        engine, _ = simulated_parts(cls)
        assert isinstance(engine, cls)
        engine.bad, engine.done, engine.asked = set(), [], asyncio.Event()
        engine.may_add, engine.may_remove, engine.most = asyncio.Event(), asyncio.Event(), 0
        engine.may_add.set()
        engine.may_remove.set()
        return engine

    async def add_adapter(self, version: AdapterVersion) -> None:
        self.done.append(("add", version.engine_name))
        self.asked.set()
        if version.engine_name in self.bad:
            raise InvalidAdapterError("the engine cannot load it: ValueError") from ValueError(REASON)
        await self.may_add.wait()
        self.most = max(self.most, len(await self.levels()) + 1)
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
    async with asyncio.timeout(60):
        while ("add", version.engine_name) not in engine.done:
            engine.asked.clear()
            await engine.asked.wait()


async def test_as_many_as_may_run_at_once_are_loaded_at_the_start(engine: Engine) -> None:
    adapters = EngineAdapters(engine, StaticRegistry(OTHERS))
    assert await adapters.load() == engine.adapter_slots == 2
    assert await engine.levels() == {OTHERS[0].key: "slot", OTHERS[1].key: "slot"}


async def test_those_that_are_expected_to_be_called_are_loaded_first(engine: Engine) -> None:
    adapters = EngineAdapters(engine, StaticRegistry(OTHERS))
    await adapters.load([OTHERS[2].key, "of another fleet", OTHERS[1].key])
    assert await engine.levels() == {OTHERS[2].key: "slot", OTHERS[1].key: "slot"}


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
        assert await adapters.hold(OTHERS[0].ref) == NOT_LOADED
    assert engine.done.count(("add", OTHERS[0].engine_name)) == 1
    assert await adapters.hold(OTHERS[1].ref) is None


async def test_an_engines_own_words_on_a_failed_load_reach_the_log_and_no_client(
    engine: Engine, registry: StaticRegistry, adapters: EngineAdapters
) -> None:
    """On one line, and not more than a line."""
    registry.publish([OTHERS[0]])
    engine.bad = {OTHERS[0].engine_name}
    with capture_logs() as logs:
        assert await adapters.hold(OTHERS[0].ref) == NOT_LOADED
    (logged,) = [line for line in logs if line["event"] == "adapter_not_loaded"]
    assert logged["adapter"] == OTHERS[0].engine_name
    assert logged["reason"].startswith("/state/other: LoRA rank 512 is greater than max_lora_rank 16. at")
    assert len(logged["reason"]) == MAX_REASON


async def test_a_version_that_the_registry_has_never_seen_cannot_be_had(adapters: EngineAdapters) -> None:
    await adapters.load()
    assert await adapters.hold(CHANGED.ref) == NOT_HERE


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


async def test_one_leaves_before_another_comes_and_the_engine_never_has_more_than_it_may(engine: Engine) -> None:
    """Else the engine chooses, and loads that one again amid a step."""
    adapters = EngineAdapters(engine, StaticRegistry(OTHERS))
    await adapters.load()
    await adapters.hold(OTHERS[0].ref)
    assert await adapters.hold(OTHERS[2].ref) is None
    assert engine.done[2:] == [("remove", OTHERS[1].engine_name), ("add", OTHERS[2].engine_name)]
    assert engine.most == engine.adapter_capacity == 2


async def test_a_call_waits_while_calls_need_all_that_may_be_loaded(engine: Engine) -> None:
    adapters = EngineAdapters(engine, StaticRegistry(OTHERS))
    for version in OTHERS[:2]:
        await adapters.hold(version.ref)
    waiting = asyncio.create_task(adapters.hold(OTHERS[2].ref))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not waiting.done()
    assert await adapters.hold(OTHERS[0].ref) is None, "who has its version does not wait behind it"
    adapters.release(OTHERS[1].ref)
    async with asyncio.timeout(60):
        assert await waiting is None
    assert engine.done[2:] == [("remove", OTHERS[1].engine_name), ("add", OTHERS[2].engine_name)]
    assert engine.most == 2


async def test_calls_that_come_together_load_their_version_once_and_one_that_goes_away_harms_none(
    engine: Engine,
) -> None:
    engine.may_add.clear()
    adapters = EngineAdapters(engine, StaticRegistry(OTHERS))
    first, second = (asyncio.create_task(adapters.hold(OTHERS[0].ref)) for _ in range(2))
    await until_added(engine, OTHERS[0])
    first.cancel()
    engine.may_add.set()
    async with asyncio.timeout(60):
        assert await second is None
    assert engine.done == [("add", OTHERS[0].engine_name)]
    adapters.release(OTHERS[0].ref)
    for version in OTHERS[1:]:
        await adapters.hold(version.ref)
    assert ("remove", OTHERS[0].engine_name) in engine.done, "the call that went away holds nothing"


async def test_adapters_that_take_turns_beyond_what_fits_are_each_loaded_and_none_leaves_under_its_call(
    engine: Engine,
) -> None:
    adapters = EngineAdapters(engine, StaticRegistry(OTHERS))

    async def call(number: int) -> None:
        version = OTHERS[number % len(OTHERS)]
        assert await adapters.hold(version.ref) is None
        await asyncio.sleep(0)
        assert version.key in await engine.levels()
        adapters.release(version.ref)

    async with asyncio.timeout(30):
        await asyncio.gather(*(call(number) for number in range(60)))
    assert engine.most <= 2


async def test_damaged_files_fail_their_own_calls_before_the_engine_sees_them(engine: Engine) -> None:
    def check(version: AdapterVersion) -> int:
        if version == OTHERS[0]:
            raise InvalidAdapterError("its stored files are damaged")
        return 0

    adapters = EngineAdapters(engine, StaticRegistry(OTHERS), check=check)
    assert await adapters.load() == 1
    refusal = EngineRefusal("adapter 'other-0' cannot be loaded: its stored files are damaged", "model", True)
    assert await adapters.hold(OTHERS[0].ref) == refusal
    assert await adapters.hold(OTHERS[1].ref) is None
    assert engine.done == [("add", OTHERS[1].engine_name)]


async def test_a_disk_that_fails_is_this_replica_s_fault_and_tried_again(engine: Engine) -> None:
    faults = [OSError(5, "Input/output error")]

    def check(version: AdapterVersion) -> int:
        if faults:
            raise InvalidAdapterError("it cannot be read") from faults.pop()
        return 0

    adapters = EngineAdapters(engine, StaticRegistry(OTHERS), check=check)
    assert await adapters.hold(OTHERS[0].ref) == EngineUnavailable(
        "adapter 'other-0' cannot be loaded: it cannot be read"
    )
    assert await adapters.hold(OTHERS[0].ref) is None


async def test_one_that_could_not_be_loaded_is_tried_again_after_a_while(engine: Engine) -> None:
    now = 0.0
    engine.bad = {OTHERS[0].engine_name}
    adapters = EngineAdapters(engine, StaticRegistry(OTHERS), clock=lambda: now)
    assert await adapters.hold(OTHERS[0].ref) == NOT_LOADED
    engine.bad.clear()
    now = RETRY_S - 1
    assert await adapters.hold(OTHERS[0].ref) == NOT_LOADED
    now = RETRY_S + 1
    assert await adapters.hold(OTHERS[0].ref) is None


async def test_one_that_is_larger_than_all_that_may_be_loaded_is_refused_with_both_sizes(engine: Engine) -> None:
    rules = LoadingRules(max_bytes=1000)
    adapters = EngineAdapters(engine, StaticRegistry(OTHERS), rules, check=lambda version: 1001)
    refusal = await adapters.hold(OTHERS[0].ref)
    assert isinstance(refusal, EngineRefusal)
    assert "its files have 1001 bytes; a replica loads 1000 at most" in refusal.message


async def test_one_that_has_no_room_beside_the_pinned_ones_is_refused_and_holds_up_no_other(engine: Engine) -> None:
    sizes = {PLAIN.name: 600, OTHERS[0].name: 500, OTHERS[1].name: 400}
    rules = LoadingRules(pinned=[PLAIN.name], max_bytes=1000)
    adapters = EngineAdapters(
        engine, StaticRegistry([PLAIN, *OTHERS[:2]]), rules, check=lambda version: sizes[version.name]
    )
    async with asyncio.timeout(60):
        await adapters.load()
        refusal = await adapters.hold(OTHERS[0].ref)
        assert await adapters.hold(OTHERS[1].ref) is None
    assert isinstance(refusal, EngineRefusal)
    assert "its files have 500 bytes; a replica loads 400 at most beside what is pinned" in refusal.message


async def test_many_new_adapters_cost_one_look_at_what_is_served(engine: Engine) -> None:
    class Counting(StaticRegistry):
        looks = 0

        def all(self) -> tuple[AdapterVersion, ...]:
            self.looks += 1
            return super().all()

    registry = Counting([])
    adapters = EngineAdapters(engine, registry)
    following = asyncio.create_task(adapters.follow())
    await asyncio.sleep(0)
    many = [replace(PLAIN, name=f"other-{number}", digest=f"{number:064x}") for number in range(50)]
    registry.publish(many)
    registry.looks = 0
    await until_added(engine, many[1])
    following.cancel()
    assert registry.looks <= 1


async def test_bytes_bound_what_is_loaded(engine: Engine) -> None:
    adapters = EngineAdapters(engine, StaticRegistry(OTHERS), LoadingRules(max_bytes=1000), check=lambda version: 600)
    for version in OTHERS[:2]:
        assert await adapters.hold(version.ref) is None
        adapters.release(version.ref)
    assert adapters.versions == [OTHERS[1]]


async def test_pinned_ones_are_loaded_first_and_stay(engine: Engine) -> None:
    pinned = replace(OTHERS[2], loading="pinned")
    adapters = EngineAdapters(engine, StaticRegistry([*OTHERS[:2], pinned]))
    await adapters.load()
    assert engine.done[0] == ("add", pinned.engine_name)
    for version in OTHERS[:2]:
        await adapters.hold(version.ref)
        adapters.release(version.ref)
    assert ("remove", pinned.engine_name) not in engine.done
    assert adapters.pinned == [pinned]


async def test_a_setting_pins_by_name_and_one_place_is_left_to_the_others(engine: Engine) -> None:
    adapters = EngineAdapters(engine, StaticRegistry(OTHERS), LoadingRules(pinned=["other-1", "other-2"]))
    await adapters.load()
    assert [version.name for version in adapters.pinned] == ["other-1"]
    assert await adapters.hold(OTHERS[0].ref) is None


async def test_a_label_that_changes_pins_and_unpins_what_is_loaded(
    registry: StaticRegistry, adapters: EngineAdapters, following: Callable[[], None]
) -> None:
    await adapters.load()
    for loading, pinned in (("pinned", [PLAIN.engine_name]), ("on demand", [])):
        registry.publish([replace(PLAIN, loading=loading)])
        for _ in range(10):
            await asyncio.sleep(0)
        assert [version.engine_name for version in adapters.pinned] == pinned


async def test_a_label_that_no_change_reports_counts_from_the_next_look_on(
    registry: StaticRegistry, adapters: EngineAdapters
) -> None:
    await adapters.load()
    registry.publish([replace(PLAIN, loading="pinned")])
    await adapters.unload_unused()
    assert [version.engine_name for version in adapters.pinned] == [PLAIN.engine_name]


async def test_a_new_version_of_a_loaded_adapter_is_loaded_before_it_is_called_and_no_other_is(
    engine: Engine, registry: StaticRegistry
) -> None:
    registry.publish([PLAIN, OTHERS[0]])
    adapters = EngineAdapters(engine, registry)
    await adapters.load()
    task = asyncio.create_task(adapters.follow())
    await asyncio.sleep(0)
    registry.publish([CHANGED, *OTHERS])
    await until_added(engine, CHANGED)
    await asyncio.sleep(0)
    assert not {("add", version.engine_name) for version in OTHERS[1:]} & set(engine.done)
    task.cancel()


async def test_what_is_not_served_any_more_keeps_nothing_from_being_loaded_before_its_call(
    engine: Engine, registry: StaticRegistry
) -> None:
    registry.publish(OTHERS[:2])
    adapters = EngineAdapters(engine, registry)
    await adapters.load()
    task = asyncio.create_task(adapters.follow())
    await asyncio.sleep(0)
    for _ in range(9):
        await adapters.hold(OTHERS[0].ref)
        adapters.release(OTHERS[0].ref)
    registry.publish([OTHERS[1], OTHERS[2]])
    await until_added(engine, OTHERS[2])
    assert ("remove", OTHERS[0].engine_name) in engine.done
    task.cancel()


async def test_what_became_of_adapters_is_reported(engine: Engine) -> None:
    class Observer:
        def __init__(self) -> None:
            self.seen: list[tuple[str, str]] = []

        def hit(self, version: AdapterVersion) -> None:
            self.seen.append(("hit", version.name))

        def loaded(self, version: AdapterVersion, seconds: float) -> None:
            self.seen.append(("loaded", version.name))

        def evicted(self, version: AdapterVersion) -> None:
            self.seen.append(("evicted", version.name))

        def failed(self, version: AdapterVersion) -> None:
            self.seen.append(("failed", version.name))

    observer = Observer()
    adapters = EngineAdapters(engine, StaticRegistry(OTHERS))
    adapters.observe(observer)
    await adapters.load()
    await adapters.hold(OTHERS[1].ref)
    engine.bad = {OTHERS[2].engine_name}
    await adapters.hold(OTHERS[2].ref)
    assert observer.seen == [
        ("loaded", "other-0"),
        ("loaded", "other-1"),
        ("hit", "other-1"),
        ("evicted", "other-0"),
        ("failed", "other-2"),
    ]
    assert adapters.load_s > 0


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
            assert reply == NOT_HERE

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
            async with asyncio.timeout(60):
                while set(directory.published[-1].resident) != {OTHERS[0].key, PLAIN.key}:
                    await directory.until(len(directory.published) + 1)


def test_a_reference_says_nothing_of_files() -> None:
    assert PLAIN.ref == AdapterRef("plain", "lora", "digest of plain")
