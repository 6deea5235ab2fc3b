"""What a new replica computes before its first call, and what one that leaves hands over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
from support.engine_host import BLOCK, PLAIN, SPACE, Host, RecordingDirectory, started_host

from aloraserve.adapters import AdapterVersion
from aloraserve.blocks import AdapterEffect
from aloraserve.scaling.packed_prefixes import pack, unpack
from aloraserve.serving.engine_messages import EngineCall
from aloraserve.wire.sampling import SamplingSettings
from aloraserve_services.engine import fleet_warmth, warmth
from aloraserve_services.engine.fleet_warmth import FleetWarmth, adapters_in_use
from aloraserve_services.engine.host import EngineHost

BUDGET_S = 5.0
MOST_TOKENS = 8_000


class Fleet:
    """Peers of each other in one process; see :class:`~aloraserve_services.engine.fleet_warmth.Peers`.

    Attributes:
        hosts: by name.
        stays: what is said of the application.
        fault: what happens to whoever is asked.
    """

    def __init__(self) -> None:
        self.hosts: dict[str, EngineHost] = {}
        self.stays = True
        self.fault: Exception | None = None
        self.is_hanging = False

    async def hottest(self, replica: str) -> bytes:
        if self.is_hanging:
            await asyncio.Event().wait()
        if self.fault is not None:
            raise self.fault
        return pack(await self.hosts[replica].warmth.hottest())

    async def prefill(self, replica: str, prefixes: bytes, budget_s: float) -> int:
        host = self.hosts[replica]
        return (await host.warmth.prefill(unpack(prefixes), budget_s, MOST_TOKENS, in_parts=True)).prefixes

    async def stay(self) -> bool:
        return self.stays


class Started:
    """A fleet of hosts that come and go."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.directory = RecordingDirectory()
        self.peers = Fleet()
        self._stack = stack

    async def add(self, name: str, *adapters: AdapterVersion, budget_s: float = BUDGET_S) -> Host:
        """Start a replica as it starts beside others."""

        async def arrive(host: EngineHost) -> None:
            await self.warmth(name, host).arrive(budget_s)

        started = started_host(self.directory, *adapters, name=name, before_calls=arrive)
        host = await self._stack.enter_async_context(started)
        self.peers.hosts[name] = host.host
        return host

    def warmth(self, name: str, host: EngineHost) -> FleetWarmth:
        return FleetWarmth(name, self.directory, host.warmth, self.peers, MOST_TOKENS)


@pytest.fixture
async def fleet() -> AsyncIterator[Started]:
    async with AsyncExitStack() as stack:
        yield Started(stack)


def call(name: str, first: int, blocks: int = 4, salt: str | None = None, adapter: Any = None) -> EngineCall:
    """Return a call whose prompt begins with a token of its own."""
    token_ids = [first, *range(1, blocks * BLOCK)]
    effect = None if adapter is None else AdapterEffect(adapter.name, adapter.digest, 0)
    keys = SPACE.keys(token_ids, cache_salt=salt, adapter=effect)
    sampling = SamplingSettings(max_tokens=1, ignore_eos=True)
    return EngineCall(name, token_ids, sampling, adapter and adapter.ref, salt, keys)


async def cached(host: Host, again: EngineCall) -> int:
    (chunk, *_) = await host.answer(again)
    return int(chunk.cached_tokens)


async def test_a_new_replica_has_what_was_hot_before_it_is_published(fleet: Started) -> None:
    old = await fleet.add("old")
    for number in range(3):
        await old.answer(call(f"a{number}", 7, salt="tenant:a"))
    await old.answer(call("b", 8))
    published = len(fleet.directory.published)
    new = await fleet.add("new")
    async with asyncio.timeout(20):
        while all(state.replica != "new" for state in fleet.directory.published[published:]):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert await cached(new, call("again", 7, salt="tenant:a")) >= 3 * BLOCK
    assert await cached(new, call("again 2", 8)) >= 3 * BLOCK
    assert await cached(new, call("other tenant", 7, salt="tenant:b")) == 0


async def test_within_its_tokens_the_hottest_come_first(fleet: Started) -> None:
    old = await fleet.add("old")
    for number in range(3):
        await old.answer(call(f"hot{number}", 7))
    await old.answer(call("cold", 8))
    async with started_host(RecordingDirectory(), name="new") as new:
        prefixes = await old.host.warmth.hottest()
        done = await new.host.warmth.prefill(prefixes, BUDGET_S, 4 * BLOCK)
        assert (done.prefixes, done.tokens) == (1, 4 * BLOCK)
        assert await cached(new, call("hot", 7)) >= 3 * BLOCK
        assert await cached(new, call("cold", 8)) == 0


async def test_a_loras_prefix_comes_with_its_adapter_and_without_it_is_passed_over(fleet: Started) -> None:
    old = await fleet.add("old", PLAIN)
    await old.answer(call("a", 7, adapter=PLAIN))
    new = await fleet.add("new", PLAIN)
    assert await cached(new, call("again", 7, adapter=PLAIN)) >= 3 * BLOCK
    bare = await fleet.add("bare")
    assert await cached(bare, call("base", 7)) == 0


async def test_a_prefix_whose_keys_would_be_others_is_not_computed(fleet: Started) -> None:
    old = await fleet.add("old")
    await old.answer(call("a", 7))
    (prefix,) = await old.host.warmth.hottest()
    done = await old.host.warmth.prefill([replace(prefix, cache_salt="tenant:other")], BUDGET_S, MOST_TOKENS)
    assert done.prefixes == 0


async def test_what_a_replica_computed_for_others_is_as_hot_there_and_is_not_a_call(fleet: Started) -> None:
    old = await fleet.add("old")
    for number in range(3):
        await old.answer(call(f"a{number}", 7))
    new = await fleet.add("new")
    (there,) = await new.host.warmth.hottest()
    assert there.heat == pytest.approx(3, abs=0.5)


@pytest.mark.parametrize("fault", ["error", "hangs", "garbage"])
async def test_peers_that_fail_make_a_cold_start(fleet: Started, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old = await fleet.add("old")
    await old.answer(call("a", 7))
    fleet.peers.fault = RuntimeError("as the test said") if fault == "error" else None
    fleet.peers.is_hanging = fault == "hangs"
    if fault == "garbage":
        monkeypatch.setattr(old.host.warmth, "hottest", no_prefixes)
    new = await fleet.add("new", budget_s=0.2)
    assert await cached(new, call("b", 9)) == 0


async def test_a_directory_that_is_gone_makes_a_cold_start(fleet: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    old = await fleet.add("old")
    await old.answer(call("a", 7))
    async with started_host(RecordingDirectory(), name="new") as new:

        async def gone() -> list[Any]:
            raise OSError("no route")

        monkeypatch.setattr(fleet.directory, "states", gone)
        await fleet.warmth("new", new.host).arrive(BUDGET_S)
        assert await cached(new, call("b", 7)) == 0


async def test_one_that_leaves_hands_over_what_it_alone_holds(fleet: Started) -> None:
    stays, goes = await fleet.add("stays"), await fleet.add("goes")
    for number in range(3):
        await goes.answer(call(f"a{number}", 7))
        await goes.answer(call(f"b{number}", 8))
        await stays.answer(call(f"c{number}", 8))
    await settled(fleet, 8, 7)
    before = len(stays.engine.served)
    await fleet.warmth("goes", goes.host).leave()
    assert len(stays.engine.served) == before + 1, "it has the other one"
    assert await cached(stays, call("again", 7)) >= 3 * BLOCK


async def test_what_can_be_handed_over_in_time_is_the_latest(fleet: Started) -> None:
    """Not what was asked for most often: it may be a conversation that is over, or what all have."""
    stays, goes = await fleet.add("stays"), await fleet.add("goes")
    for number in range(3):
        await goes.answer(call(f"hot{number}", 7, blocks=60))
    await goes.answer(call("latest", 8, blocks=60))
    await settled(fleet, 7, 8)
    # A prefill of 60 blocks takes 0.19 s.
    await fleet.warmth("goes", goes.host).leave(fleet_warmth.ANSWER_S + 0.3)
    assert await cached(stays, call("again", 8, blocks=60)) >= 59 * BLOCK
    assert await cached(stays, call("again 2", 7, blocks=60)) == 0


async def test_nothing_is_handed_over_where_all_of_the_application_ends(fleet: Started) -> None:
    stays, goes = await fleet.add("stays"), await fleet.add("goes")
    for number in range(3):
        await goes.answer(call(f"a{number}", 7))
    fleet.peers.stays = False
    await settled(fleet, 7)
    await fleet.warmth("goes", goes.host).leave()
    assert await cached(stays, call("again", 7)) == 0


async def test_adapters_that_the_fleet_calls_are_due(fleet: Started) -> None:
    versions = [
        AdapterVersion(f"plain{number}", "lora", PLAIN.path, 8, (), (), f"digest of {number}") for number in range(4)
    ]
    old = await fleet.add("old", *versions)
    await old.answer(call("a", 7, adapter=versions[3]))
    async with asyncio.timeout(60):
        while versions[3].key not in await adapters_in_use(fleet.directory):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def no_prefixes() -> list[Any]:
    return []


async def test_what_is_computed_for_a_prefix_is_nobodys_call(fleet: Started) -> None:
    old, new = await fleet.add("old"), await fleet.add("new")
    await old.answer(call("a", 7))
    prefixes = await old.host.warmth.hottest()
    began: list[str] = []

    def begin(observed: EngineCall) -> Any:
        began.append(observed.request_id)
        return old.host  # never asked: nobody follows such a call

    new.host.observe(begin)
    for _ in range(2):
        assert (await new.host.warmth.prefill(prefixes, BUDGET_S, MOST_TOKENS)).prefixes == 1
    assert began == []
    assert new.host._state().saved_s == 0, "the second found what the first had computed"


async def test_several_that_stay_share_what_is_handed_over(fleet: Started) -> None:
    stay = [await fleet.add("a"), await fleet.add("b")]
    goes = await fleet.add("goes")
    firsts = range(7, 13)
    for first in firsts:
        for number in range(3):
            await goes.answer(call(f"{first} {number}", first))
    await settled(fleet, *firsts)
    before = [len(host.engine.served) for host in stay]
    await fleet.warmth("goes", goes.host).leave()
    assert [len(host.engine.served) - had for host, had in zip(stay, before, strict=True)] == [3, 3]


async def test_calls_come_before_what_is_computed_for_a_prefix(fleet: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = await fleet.add("old"), await fleet.add("new")
    await old.answer(call("a", 7))
    priorities: dict[str, int] = {}
    generate = new.engine.generate

    def noted(asked: EngineCall, priority: int) -> Any:
        priorities[asked.request_id.split("-")[0]] = priority
        return generate(asked, priority)

    monkeypatch.setattr(new.engine, "generate", noted)
    await new.host.warmth.prefill(await old.host.warmth.hottest(), BUDGET_S, MOST_TOKENS)
    await new.answer(call("call", 8, blocks=60))
    assert priorities["call"] < priorities["warm"]


async def test_without_autoscaling_no_prompt_is_remembered() -> None:
    async with started_host(RecordingDirectory(), keeps_prompts=False) as host:
        await host.answer(call("a", 7))
        assert await host.host.warmth.hottest() == []


async def settled(fleet: Started, *firsts: int) -> None:
    """Wait until the directory has what the replicas hold."""
    async with asyncio.timeout(60):
        for first in firsts:
            while not any(found.held_blocks for found in await fleet.directory.lookup(call("x", first).keys)):  # noqa: ASYNC110
                await asyncio.sleep(0.02)


async def test_prompts_that_come_faster_than_they_are_taken_in_are_passed_over(
    fleet: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warmth, "MAX_NOTED", 2)
    host = (await fleet.add("a")).host
    for first in (7, 8, 9):
        host.warmth.note(call(str(first), first))
    for _ in range(3):
        await asyncio.sleep(0)
    host.warmth.note(call("later", 10))
    for _ in range(3):
        await asyncio.sleep(0)
    assert {prefix.token_ids[0] for prefix in await host.warmth.hottest()} == {7, 8, 10}
