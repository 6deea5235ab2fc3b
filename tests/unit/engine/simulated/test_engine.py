"""The simulated engine: its times are the scheduler's, and its reuse is the key space's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.virtual_time import VirtualTime

from aloraserve.adapters import AdapterVersion
from aloraserve.blocks import AdapterEffect, BlockKey, BlocksStored, KeySpace, activation_point
from aloraserve.blocks.keys import version_salt
from aloraserve.directory.mirror import Mirror
from aloraserve.engine_model.block_cache import BlockCache
from aloraserve.engine_model.calibration import AdapterTimes, Calibration, DecodeTimes, PrefillTimes, load
from aloraserve.routing.scheduling import Scheduling
from aloraserve.serving.engine_messages import EngineCall, EngineChunk, EngineRefusal
from aloraserve.wire.sampling import SamplingSettings
from aloraserve_services.engine.simulated.answer_words import AnswerWords, Word
from aloraserve_services.engine.simulated.engine import SimulatedEngine
from aloraserve_services.engine.simulated.events import SimulatedEvents
from aloraserve_services.engine.simulated.model_clock import Timer

SPACE = KeySpace("model", "tokenizer", 4, "simulated")
WORDS = AnswerWords([Word(900 + number, f" w{number}") for number in range(7)])
LONG = 100


def adapter(name: str, *invocation: int) -> AdapterVersion:
    kind: Any = "alora" if invocation else "lora"
    return AdapterVersion(name, kind, Path(name), 8, (), invocation, f"digest of {name}")


ADAPTERS = {one.name: one for one in (adapter("safety", 70, 71), adapter("certainty", 80), adapter("plain"))}


LATER = adapter("later")


def times(**parts: Any) -> Calibration:
    """Return a calibration: 10 ms a token and 1 s a prefill, 0.1 s a step."""
    prefill = PrefillTimes(fixed_s=1.0, s_per_token=0.01, s_per_square_token=0.0)
    decode = DecodeTimes(fixed_s=0.1, s_per_sequence=0.0, s_per_context_token=0.0)
    common: dict[str, Any] = {
        "name": "test",
        "machine": "none",
        "model": "none",
        "dtype": "none",
        "date": "2026-01-01",
        "sources": ["made up"],
        "prefill": prefill,
        "decode": decode,
        "adapters": AdapterTimes(load_s=5.0, slots=2, resident=2),
        "kv_tokens": 4000,
        "block_tokens": 4,
        "max_num_batched_tokens": 1000,
        "max_num_seqs": 10,
    }
    return Calibration(**common | parts)


class Engine(SimulatedEngine):
    """Has had three adapters and has loaded none of them."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._versions = {version.engine_name: version for version in ADAPTERS.values()}


class Fixture:
    """An engine in virtual time, the moments for which it sets timers, and the mirror of what it says."""

    def __init__(self, *, stream_tokens: int = 1, **parts: Any) -> None:
        self.time = VirtualTime()
        self.timers: list[float] = []
        self.events = SimulatedEvents()
        self.engine = Engine(
            times(**parts),
            SPACE,
            WORDS,
            self.events,
            stream_tokens=stream_tokens,
            clock=self.time.clock,
            call_later=self._call_later,
        )
        self.mirror = Mirror(SPACE, version_salt)
        self.started = self.time.now_s
        self._calls = 0

    def call(
        self, token_ids: Sequence[int], max_tokens: int = 1, adapter: str | None = None, **parts: Any
    ) -> EngineCall:
        self._calls += 1
        names = SamplingSettings.__dataclass_fields__
        sampling = SamplingSettings(
            max_tokens=max_tokens, **{key: parts.pop(key) for key in list(parts) if key in names}
        )
        ref = None if adapter is None else ADAPTERS.get(adapter, LATER).ref
        return EngineCall(f"call-{self._calls}", list(token_ids), sampling, ref, **parts)

    def _call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        self.timers.append(round(self.time.now_s + seconds - self.started, 6))
        return self.time.call_later(seconds, callback)

    async def answer(self, call: EngineCall) -> list[tuple[float, EngineChunk]]:
        """Return a call's chunks, each with the seconds since the start."""
        found = []
        async for reply in self.engine.generate(call):
            assert isinstance(reply, EngineChunk), reply
            found.append((round(self.time.now_s - self.started, 6), reply))
        return found

    async def cached(self, call: EngineCall) -> int:
        return (await self.time.run(self.answer(call)))[0][1].cached_tokens

    def read_events(self) -> None:
        """Take what was published into the mirror."""
        while self.events._waiting:
            for event in self.events._waiting.popleft().events:
                self.mirror.apply(event)

    @property
    def cache(self) -> BlockCache:
        return self.engine.scheduler.kv_cache_manager.cache

    def held(self) -> set[BlockKey]:
        return {*self.cache._references, *self.cache._idle}


@pytest.fixture
async def made() -> AsyncIterator[Any]:
    engines: list[Fixture] = []

    def make(**parts: Any) -> Fixture:
        engines.append(Fixture(**parts))
        return engines[-1]

    yield make
    for one in engines:
        one.engine.shutdown()


async def loaded(engine: SimulatedEngine) -> tuple[str, ...]:
    """Return the names of the adapters that an engine has loaded, in a slot or not."""
    levels = await engine.levels()
    return tuple(sorted(one.name for one in (*ADAPTERS.values(), LATER) if one.key in levels))


def prompt(start: int, count: int = LONG) -> list[int]:
    return list(range(1000 * start, 1000 * start + count))


async def test_the_first_token_comes_after_the_fixed_part_and_each_token_s(made: Any) -> None:
    one = made()
    ((at, chunk),) = await one.time.run(one.answer(one.call(prompt(1))))
    assert at == pytest.approx(1.0 + LONG * 0.01)
    assert (chunk.tokens, chunk.finish_reason, chunk.cached_tokens) == (1, "length", 0)


@pytest.mark.parametrize(("is_apart", "seconds"), [(True, [2.0, 4.0, 6.0]), (False, [2.0, 5.0, 5.0])])
async def test_prompts_are_prefilled_in_the_order_in_which_they_came(
    made: Any, is_apart: bool, seconds: list[float]
) -> None:
    """One after the other where that is the calibration's; else the last two share the step after the first one's."""
    one = made(prefill_apart=is_apart)

    async def three() -> list[float]:
        answers = await asyncio.gather(*(one.answer(one.call(prompt(number))) for number in (1, 2, 3)))
        return [answer[0][0] for answer in answers]

    assert await one.time.run(three()) == pytest.approx(seconds)


async def test_an_idle_engine_begins_at_once_and_not_when_it_could_have(made: Any) -> None:
    one = made()
    await one.time.run(one.answer(one.call(prompt(1))))
    await one.time.pass_s(50)
    assert (await one.time.run(one.answer(one.call(prompt(2)))))[0][0] == pytest.approx(2.0 + 50 + 2.0)


async def test_a_cached_prefix_takes_no_time_but_the_last_token_is_computed_again(made: Any) -> None:
    one = made()
    await one.cached(one.call(prompt(1)))
    begun = one.time.now_s
    assert await one.cached(one.call(prompt(1))) == LONG - 4
    assert one.time.now_s - begun == pytest.approx(1.0 + 4 * 0.01)


@pytest.mark.parametrize(("is_apart", "seconds"), [(True, [2.0, 2.1, 2.2, 2.3]), (False, [2.0, 4.0, 4.1, 4.2])])
async def test_answers_go_on_while_other_prompts_are_prefilled(made: Any, is_apart: bool, seconds: list[float]) -> None:
    """Beside them where that is the calibration's, else with a token in each of their steps."""
    one = made(prefill_apart=is_apart)

    async def both() -> list[list[tuple[float, EngineChunk]]]:
        return list(await asyncio.gather(one.answer(one.call(prompt(1), 4)), one.answer(one.call(prompt(2), 2))))

    first, second = await one.time.run(both())
    assert [at for at, _ in first] == pytest.approx(seconds)
    assert [at for at, _ in second] == pytest.approx([4.0, 4.1])


async def test_words_leave_together_where_that_is_asked_for(made: Any) -> None:
    one = made(stream_tokens=4)
    found = await one.time.run(one.answer(one.call(prompt(1), 10)))
    assert [(at, chunk.tokens) for at, chunk in found] == [(2.0, 1), (2.4, 4), (2.8, 4), (2.9, 1)]


async def test_what_a_reader_was_late_for_comes_at_once_and_delays_nothing(made: Any) -> None:
    one = made()

    async def slow() -> list[tuple[float, int]]:
        found = []
        async for reply in one.engine.generate(one.call(prompt(1), 8)):
            found.append((round(one.time.now_s - one.started, 6), reply.tokens))
            if len(found) == 2:
                await one.time.sleep(0.35)
        return found

    assert await one.time.run(slow()) == [(2.0, 1), (2.1, 1), (2.45, 3), (2.5, 1), (2.6, 1), (2.7, 1)]


async def test_a_step_takes_longer_for_more_answers_and_longer_contexts(made: Any) -> None:
    one = made(decode=DecodeTimes(fixed_s=0.1, s_per_sequence=0.2, s_per_context_token=0.001))
    (_, (at, _)) = await one.time.run(one.answer(one.call(prompt(1), 2)))
    # The first token is part of the context.
    assert at - 2.0 == pytest.approx(0.1 + 0.2 + (LONG + 1) * 0.001)


async def test_long_prompts_are_computed_in_parts_and_adapters_cost_more(made: Any) -> None:
    slow = PrefillTimes(fixed_s=1.0, s_per_token=0.01, s_per_square_token=0.0, adapter_s_per_token=0.1)
    one = made(max_num_batched_tokens=40, prefill=slow, adapters=AdapterTimes(load_s=0.0, slots=2, resident=2))
    ((at, _),) = await one.time.run(one.answer(one.call(prompt(1), adapter="plain")))
    assert at == pytest.approx(3 * 1.0 + LONG * 0.11)


def keys_of(token_ids: Sequence[int], name: str | None, salt: str | None) -> list[BlockKey]:
    effect = None
    if name is not None:
        known = ADAPTERS[name]
        start = activation_point(token_ids, known.invocation_ids) if known.invocation_ids else 0
        assert start is not None
        effect = AdapterEffect(name, known.digest, start)
    return SPACE.keys(token_ids, cache_salt=salt, adapter=effect)


async def test_base_and_aloras_share_what_comes_before_the_activation_and_loras_share_with_themselves(
    made: Any,
) -> None:
    one = made()
    said = prompt(1, 42)
    safety, certainty = [*said, 70, 71], [*said, 80]
    assert await one.cached(one.call(said)) == 0
    assert await one.cached(one.call(safety, adapter="safety")) == 40
    assert await one.cached(one.call(certainty, adapter="certainty")) == 40
    assert await one.cached(one.call([*safety, *said], adapter="safety")) == 44
    assert await one.cached(one.call([*safety, *said])) == 40
    assert await one.cached(one.call(said, adapter="plain")) == 0
    assert await one.cached(one.call(said, adapter="plain")) == 40
    assert await one.cached(one.call(said, cache_salt="other")) == 0


@pytest.mark.parametrize(("answered", "held"), [(11, 52), (10, 48)])
async def test_an_answer_s_blocks_are_found_by_the_next_turn(made: Any, answered: int, held: int) -> None:
    """All but those that its last word completes: that word's own KV was never computed."""
    one = made()
    answer = await one.time.run(one.answer(one.call(prompt(1, 42), answered)))
    said = WORDS.tokens_of("".join(chunk.text for _, chunk in answer))
    assert len(said) == answered
    assert await one.cached(one.call([*prompt(1, 42), *said, *prompt(2, 30)])) == held


TOKENS = st.lists(st.sampled_from((1, 2, 70, 71, 80)), min_size=1, max_size=20)
CALLS = st.lists(
    st.tuples(
        st.lists(TOKENS, min_size=1, max_size=3), st.sampled_from((None, *ADAPTERS)), st.sampled_from((None, "t"))
    ),
    max_size=12,
)


@settings(max_examples=60)
@given(CALLS)
async def test_reuse_is_what_the_key_space_says_and_the_mirror_agrees(calls: list[Any]) -> None:
    await played(Fixture(), calls, is_evicting=False)


@settings(max_examples=60)
@given(CALLS)
async def test_the_mirror_agrees_through_evictions(calls: list[Any]) -> None:
    await played(Fixture(kv_tokens=80), calls, is_evicting=True)


async def played(one: Fixture, calls: list[Any], *, is_evicting: bool) -> None:
    """Play calls and compare, after each, with the keys of all before it and with the mirror."""
    seen: set[BlockKey] = set()
    for parts, name, salt in calls:
        token_ids = [token for part in parts for token in part]
        if name is not None:
            token_ids += ADAPTERS[name].invocation_ids
        keys = keys_of(token_ids, name, salt)
        one.read_events()
        assert set(one.mirror._held) == one.held()
        assert one.mirror.overlap(keys) == one.cache.match(keys)
        held = next((index for index, key in enumerate(keys) if key not in seen), len(keys))
        cached = await one.cached(one.call(token_ids, 9, adapter=name, cache_salt=salt))
        if not is_evicting:
            assert cached == min(held, (len(token_ids) - 1) // 4) * 4
        seen |= one.held()
    one.read_events()
    assert set(one.mirror._held) == one.held()
    drops = one.mirror.drops
    assert (drops.unknown_parent, drops.unknown_adapter, drops.wrong_token_count) == (0, 0, 0)
    assert one.engine.kv_usage == 0
    one.engine.shutdown()


async def test_what_an_alora_stored_before_its_activation_is_reported_as_the_base_model_s(made: Any) -> None:
    one = made()
    await one.cached(one.call([*prompt(1, 6), 70, 71, *prompt(2, 4)], adapter="safety", cache_salt="t"))
    stored = [event for batch in one.events._waiting for event in batch.events if isinstance(event, BlocksStored)]
    reported = [(event.adapter, event.cache_salt, event.base_tokens, len(event.hashes)) for event in stored]
    assert reported == [(None, "t", 0, 1), (ADAPTERS["safety"].engine_name, None, 2, 2)]
    assert stored[1].parent == stored[0].hashes[0]


@pytest.mark.parametrize("moment_s", [0.5, 1.5, 2.25], ids=["prefill", "prefill too", "decode"])
async def test_a_closed_call_frees_everything_at_once(made: Any, moment_s: float) -> None:
    one = made()
    running = asyncio.ensure_future(one.answer(one.call(prompt(1), 50, adapter="plain")))
    waiting = asyncio.ensure_future(one.answer(one.call(prompt(2), 50)))
    one.engine.scheduler.adapter_slots.preload([ADAPTERS["plain"].engine_name])
    await one.time.pass_s(moment_s)
    assert one.engine.kv_usage > 0
    for task in (running, waiting):
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert one.engine.kv_usage == 0
    assert not one.engine.scheduler.adapter_slots.running
    assert not one.engine.scheduler.requests
    # The part that was being computed is computed to its end; then the next one's turn comes.
    begun = max(one.time.now_s - one.started, 2.0 if moment_s < 2 else 4.0)
    assert (await one.time.run(one.answer(one.call(prompt(3)))))[0][0] == pytest.approx(begun + 2.0)
    one.read_events()
    assert set(one.mirror._held) == one.held()


async def test_a_prompt_that_was_given_up_is_not_cached(made: Any) -> None:
    one = made()
    running = asyncio.ensure_future(one.answer(one.call(prompt(1))))
    await one.time.pass_s(1.0)
    running.cancel()
    await one.time.settle()
    assert await one.cached(one.call(prompt(1))) == 0


async def test_a_third_adapter_waits_for_a_slot_and_lets_others_pass(made: Any) -> None:
    one = made(adapters=AdapterTimes(load_s=0.0, slots=1, resident=1))

    async def all_three() -> list[float]:
        plain, safety = one.call(prompt(1), 40, adapter="plain"), one.call([*prompt(2), 70, 71], adapter="safety")
        answers = await asyncio.gather(*map(one.answer, (plain, safety, one.call(prompt(3)))))
        return [answer[0][0] for answer in answers]

    plain, safety, base = await one.time.run(all_three())
    assert (plain, base) == (pytest.approx(2.0), pytest.approx(4.0))
    # The second of the first call's tokens came in the step that prefilled the third call.
    assert safety == pytest.approx(4.0 + 38 * 0.1 + 2.02)


async def test_loading_an_adapter_takes_its_time_once_and_the_oldest_makes_room(made: Any) -> None:
    one = made()
    for name in ("safety", "certainty"):
        await one.time.run(one.engine.add_adapter(ADAPTERS[name]))
    assert one.time.now_s - one.started == pytest.approx(10.0)
    assert await loaded(one.engine) == ("certainty", "safety")
    begun = one.time.now_s
    await one.cached(one.call(prompt(1), adapter="plain"))
    assert one.time.now_s - begun == pytest.approx(5.0 + 2.0)
    assert await loaded(one.engine) == ("certainty", "plain")
    begun = one.time.now_s
    await one.cached(one.call(prompt(2), adapter="plain"))
    assert one.time.now_s - begun == pytest.approx(2.0)


async def test_a_call_waits_until_the_cache_has_room_and_then_begins(made: Any) -> None:
    one = made(kv_tokens=160)

    async def both() -> list[float]:
        answers = await asyncio.gather(*(one.answer(one.call(prompt(number), 21)) for number in (1, 2)))
        return [answer[0][0] for answer in answers]

    assert await one.time.run(both()) == pytest.approx([2.0, 2.0 + 20 * 0.1 + 2.0])


async def test_a_call_waits_for_a_request_slot(made: Any) -> None:
    one = made(max_num_seqs=1)

    async def both() -> list[float]:
        answers = await asyncio.gather(*(one.answer(one.call(prompt(number), 11)) for number in (1, 2)))
        return [answer[0][0] for answer in answers]

    assert await one.time.run(both()) == pytest.approx([2.0, 3.0 + 2.0])


async def test_what_can_never_run_is_refused(made: Any) -> None:
    one = made(kv_tokens=100)
    for call, message in (
        (one.call(prompt(1), 9), "need 112 tokens of KV cache; the engine has 100"),
        (one.call(prompt(1, 10), adapter="safety"), "does not contain the invocation of 'safety'"),
    ):
        (refusal,) = [reply async for reply in one.engine.generate(call)]
        assert isinstance(refusal, EngineRefusal)
        assert message in refusal.message


async def test_an_adapter_that_was_not_added_is_a_mistake_of_ours(made: Any) -> None:
    one = made()
    with pytest.raises(KeyError, match="later@"):
        await one.answer(one.call(prompt(1), adapter="later"))


async def test_a_reset_empties_the_cache_unless_requests_run(made: Any) -> None:
    one = made()
    running = asyncio.ensure_future(one.answer(one.call(prompt(1), 50)))
    await one.time.pass_s(2.05)
    assert not await one.engine.reset_prefix_cache()
    await one.time.run(running)
    assert one.held()
    assert await one.engine.reset_prefix_cache()
    one.read_events()
    assert one.held() == set(one.mirror._held) == set()


async def test_a_preempting_reset_computes_again_what_runs_and_changes_no_answer(made: Any) -> None:
    alone = await (one := made()).time.run(one.answer(one.call(prompt(1), 50)))
    one = made()
    await one.time.run(one.answer(one.call(prompt(2))))
    running = asyncio.ensure_future(one.answer(one.call(prompt(1), 50)))
    await one.time.pass_s(4.05)
    other = asyncio.ensure_future(one.answer(one.call(prompt(3))))
    assert await one.engine.reset_prefix_cache(preempt=True)
    one.read_events()
    assert one.held() == set(one.mirror._held) == set()
    await one.time.pass_s(3.3)
    one.read_events()
    assert one.held() == set(one.mirror._held)
    assert one.mirror.overlap(SPACE.keys(prompt(1))) > 0
    assert one.mirror.overlap(SPACE.keys(prompt(2))) == 0
    again = await one.time.run(running)
    assert "".join(chunk.text for _, chunk in again) == "".join(chunk.text for _, chunk in alone)
    await one.time.run(other)
    one.read_events()
    assert one.held() == set(one.mirror._held)


async def test_an_answer_goes_on_past_its_own_end_if_it_is_asked_to(made: Any) -> None:
    one = made()
    ended = await one.time.run(one.answer(one.call(prompt(1), 900)))
    assert ended[-1][1].finish_reason == "stop"
    assert sum(chunk.tokens for _, chunk in ended) < 900
    whole = await one.time.run(one.answer(one.call(prompt(1), 900, ignore_eos=True)))
    assert (sum(chunk.tokens for _, chunk in whole), whole[-1][1].finish_reason) == (900, "length")


async def test_an_engine_that_hangs_goes_on_where_it_was(made: Any) -> None:
    one = made()
    running = asyncio.ensure_future(one.answer(one.call(prompt(1), 3)))
    await one.time.pass_s(2.05)
    one.engine.hang(True)
    await one.time.pass_s(30)
    one.engine.hang(False)
    assert [at for at, _ in await one.time.run(running)] == pytest.approx([2.0, 32.1, 32.2])


async def test_an_answer_that_is_given_up_stays_cached_as_far_as_it_was_computed(made: Any) -> None:
    one = made()
    running = asyncio.ensure_future(one.answer(one.call(prompt(1), 40)))
    await one.time.pass_s(2.0 + 9 * 0.1 + 0.05)
    running.cancel()
    await one.time.settle()
    one.read_events()
    assert len(one.mirror._held) == len(one.held()) == (LONG + 9) // 4


async def test_adapters_come_and_go_while_calls_run(made: Any) -> None:
    one = made()
    running = asyncio.ensure_future(one.answer(one.call(prompt(2), 90)))
    await one.time.run(one.engine.add_adapter(LATER))
    assert await loaded(one.engine) == ("later",)
    assert await one.cached(one.call(prompt(1), adapter="later")) == 0
    assert await one.cached(one.call(prompt(1), adapter="later")) == LONG - 4
    await one.engine.remove_adapter(LATER)
    assert await loaded(one.engine) == ()
    with pytest.raises(KeyError):
        await one.answer(one.call(prompt(1), adapter="later"))
    assert len(await one.time.run(running)) == 90


async def test_a_version_that_is_removed_while_a_call_waits_answers_it_and_is_not_listed(made: Any) -> None:
    one = made(adapters=AdapterTimes(load_s=5.0, slots=1, resident=2))
    running = asyncio.ensure_future(one.answer(one.call(prompt(1), 9, adapter="plain")))
    waiting = asyncio.ensure_future(one.answer(one.call([*prompt(2), 70, 71, 5], 9, adapter="safety")))
    await one.time.run(asyncio.sleep(0))
    assert one.engine.scheduler.num_waiting == 1
    await one.engine.remove_adapter(ADAPTERS["safety"])
    await one.time.run(running)
    assert len(await one.time.run(waiting)) == 9
    assert len(one.engine.scheduler.adapter_slots.resident) == 2
    assert await loaded(one.engine) == ("plain",)


async def test_an_engine_that_has_failed_says_so(made: Any) -> None:
    one = made()
    running = asyncio.ensure_future(one.answer(one.call(prompt(1), 9)))
    await one.time.pass_s(2.05)
    assert not one.engine.is_dead
    one.events.publish = None
    with contextlib.suppress(TypeError):
        await one.time.run(running)
    await one.time.pass_s(5)
    assert one.engine.is_dead
    with pytest.raises(TypeError):
        await one.engine.check_health()


async def test_an_engine_that_hangs_goes_on_when_it_is_healed(made: Any) -> None:
    one = made()
    one.engine.hang(True)
    running = asyncio.ensure_future(one.answer(one.call(prompt(1))))
    await one.time.pass_s(30)
    assert not running.done()
    one.engine.hang(False)
    assert (await one.time.run(running))[0][1].tokens == 1


async def test_a_timer_is_set_only_for_what_is_due_next(made: Any) -> None:
    one = made(stream_tokens=10, prefill_apart=True)

    async def overlapping() -> None:
        await asyncio.gather(*(one.answer(one.call(prompt(number), 41)) for number in (1, 2, 3)))

    await one.time.run(overlapping())
    # An answer or a prompt ends at even seconds; chunks leave at the odd ones before.
    assert one.timers == [2.0, 4.0, 3.0, 4.0, 6.0, 5.0, 6.0, 8.0, 7.0, 8.0, 10.0, 9.0, 10.0]
    await one.time.pass_s(50)
    assert one.timers[-1] == 10.0


async def test_the_model_s_own_times_are_remembered(made: Any) -> None:
    one = made()
    await one.time.run(one.answer(one.call(prompt(1))))
    ((request_id, ttft_s),) = one.engine.served
    assert request_id == "call-1"
    assert ttft_s == pytest.approx(2.0)


async def test_choices_differ_share_their_prompt_and_end_together(made: Any) -> None:
    one = made()
    found = await one.time.run(one.answer(one.call(prompt(1), 3, n=2)))
    texts = ["".join(chunk.text for _, chunk in found if chunk.index == index) for index in (0, 1)]
    assert texts[0] != texts[1]
    # Each choice computes its prompt's last block itself.
    assert [at for at, _ in found] == pytest.approx([2.04, 2.04, 2.14, 2.14, 2.24, 2.24])
    one.read_events()
    assert set(one.mirror._held) == one.held()


def test_the_peers_calibration_is_the_table_s() -> None:
    live = load("live-peers")
    assert live.prefill.model.seconds(0, 8000) == pytest.approx(1.002)
    assert (live.decode.fixed_s, live.kv_tokens, live.block_tokens) == (0.01, 40_000, 16)


async def test_the_lowest_priority_begins_first_and_all_choices_have_their_call_s() -> None:
    one = Fixture(max_num_seqs=1)
    order: list[str] = []

    async def ask(name: str, priority: int, **parts: Any) -> None:
        call = one.call([len(name), *range(500, 540)], **parts)
        async for _ in one.engine.generate(call, priority):
            order.append(name)

    await one.time.run(
        asyncio.wait_for(
            asyncio.gather(ask("runs", 9), ask("last", 3), ask("both", 2, n=2), ask("first", 1), ask("tied", 3)), None
        )
    )
    assert order == ["runs", "first", "both", "both", "last", "tied"]


async def test_a_long_prompt_is_not_starved_by_a_stream_of_short_ones() -> None:
    """Short ones keep the engine busy for good; the long one begins after the last that came before its time is up."""
    one, scheduling = Fixture(max_num_seqs=1), Scheduling(ageing=0.5)
    begun: list[tuple[str, float]] = []

    async def ask(name: str, tokens: int) -> None:
        accepted_s = one.time.now_s
        call = one.call([*name.encode(), *range(1000, 1000 + tokens)])
        priority = scheduling.priority(1.0 + 0.01 * len(call.token_ids), accepted_s)
        async for _ in one.engine.generate(call, priority):
            begun.append((name, accepted_s))

    async def stream(number: int) -> None:
        for turn in range(40):
            await ask(f"short {number} {turn}", 20)

    await one.time.run(asyncio.wait_for(asyncio.gather(ask("begins", 1), ask("long", 800), stream(1), stream(2)), None))
    names = [name for name, _ in begun]
    long_at = names.index("long")
    overtook = [accepted_s for name, accepted_s in begun[:long_at] if name.startswith("short")]
    limit_s = begun[long_at][1] + (1.0 + 0.01 * 804) / 0.5
    assert 2 < len(overtook) < 80
    assert max(overtook) <= limit_s


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("logit_bias", {"logit_bias": ((1, 1.0),)}),
        ("allowed_token_ids", {"allowed_token_ids": (1,)}),
        ("bad_words", {"bad_words": ("x",)}),
        ("prompt_logprobs", {"prompt_logprobs": 0}),
    ],
)
async def test_what_needs_a_model_is_refused_by_name(field: str, given: dict[str, Any]) -> None:
    engine = SimulatedEngine(times(), SPACE, WORDS, SimulatedEvents())
    [reply] = [reply async for reply in engine.generate(EngineCall("c", [1, 2], SamplingSettings(**given)))]
    assert reply == EngineRefusal(f"{field} needs an engine with a model; this one is simulated", field)
    engine.shutdown()


@pytest.mark.parametrize("public", [0, 1, 3])
@pytest.mark.parametrize("name", [None, "certainty"])
@pytest.mark.parametrize("tail", [1, 3, 9])
async def test_tenants_share_exactly_the_public_blocks_on_one_engine(
    made: Any, public: int, name: str | None, tail: int
) -> None:
    """What a tenant finds of another's call, cached or sooner answered, is the shared prefix and nothing more."""
    one = made()
    token_ids = [*range(100, 100 + 4 * public), *range(200, 200 + tail), *((80, 5) if name else ())]
    effect = None
    if name is not None:
        effect = AdapterEffect(name, ADAPTERS[name].digest, len(token_ids) - 2)
    ttfts = []
    for salt, cached in (("tenant:1:a", 0), ("tenant:1:b", 4 * public), ("tenant:1:b", (len(token_ids) - 1) // 4 * 4)):
        call = one.call(token_ids, 9, name, cache_salt=salt, public_blocks=public)
        began = one.time.now_s - one.started
        (at, first), *_ = await one.time.run(one.answer(call))
        assert first.cached_tokens == cached
        ttfts.append(at - began)
        one.read_events()
        keys = SPACE.keys(token_ids, cache_salt=salt, adapter=effect, public_blocks=public)
        assert one.mirror.overlap(keys) == len(keys)
    assert one.held() == {holding.key for holding in one.mirror.snapshot()}
    stranger = one.call(token_ids, 9, name, cache_salt="tenant:1:c", public_blocks=public)
    assert await one.cached(stranger) == 4 * public
    if not public and name is None:
        assert ttfts[1] == pytest.approx(ttfts[0]), "a stranger's first token is as late as that of a new prompt"


async def test_without_a_salt_one_tenant_s_call_shows_in_another_s(made: Any) -> None:
    """What the test above would find if engines had no salts."""
    one = made()
    began = []
    for cached in (0, 96):
        start = one.time.now_s
        call = one.call(prompt(1), cache_salt=None)
        assert await one.cached(call) == cached
        began.append(one.time.now_s - start)
    assert began[1] < began[0] / 1.5
