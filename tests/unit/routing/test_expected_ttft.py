from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloraserve.blocks import KeySpace
from aloraserve.directory.base import Candidate, ReplicaLoad, ReplicaState
from aloraserve.routing.base import Call
from aloraserve.routing.conversation_names import ConversationNames
from aloraserve.routing.cost_model import unpublished
from aloraserve.routing.expected_ttft import ExpectedTtft, ExpectedTtftTuning
from aloraserve.routing.queue_profile import queue_profile

SPACE = KeySpace("model", "tokenizer", 16)
CALL = Call(prompt_tokens=512, block_tokens=16, keys=SPACE.keys([7] * 512))


def call(conversation: int, **fields: Any) -> Call:
    return replace(CALL, keys=SPACE.keys([conversation] * 512), **fields)


def candidate(
    replica: str,
    *,
    held: int = 0,
    claimed: int = 0,
    tokens: int = 0,
    claims: int = 0,
    blocks: int = 0,
    resident: tuple[str, ...] = (),
    active: tuple[str, ...] = (),
    **load: Any,
) -> Candidate:
    loaded = ReplicaLoad(prefill_tokens_per_s=1000.0, **load)
    state = ReplicaState(replica, "1", f"engine-{replica}", loaded, resident, blocks, active)
    return Candidate(state, held, max(held, claimed), tokens, held, claims)


def rank(*candidates: Candidate, call: Call = CALL) -> list[str]:
    return ExpectedTtft().decide(call, candidates).rank


def test_the_replica_that_holds_the_prefix_wins() -> None:
    decision = ExpectedTtft().decide(CALL, [candidate("a"), candidate("b", held=30)])
    assert decision.rank == ["b", "a"]
    assert decision.reason == "holds 480 of 512 tokens"
    assert decision.estimates[0].overlap_tokens == 480
    assert decision.estimates[0].expected_ttft_s == pytest.approx(0.032)
    assert decision.estimates[1].expected_ttft_s == pytest.approx(0.512)


def test_one_block_is_enough() -> None:
    assert rank(candidate("a"), candidate("b", held=1)) == ["b", "a"]


def test_a_claimed_prefix_counts_like_a_held_one() -> None:
    assert rank(candidate("a"), candidate("b", claimed=30)) == ["b", "a"]


def test_a_holder_with_a_long_queue_spills() -> None:
    busy = candidate("0", held=30, queued_prefill_tokens=9000)
    decision = ExpectedTtft().decide(CALL, [busy, candidate("1")])
    assert decision.rank == ["1", "0"]
    assert decision.reason == "engine-0 holds 480 tokens but has 9,000 queued"


def test_a_holder_without_a_free_slot_spills() -> None:
    full = candidate("0", held=30, running=4, waiting=4, max_requests=4)
    decision = ExpectedTtft().decide(CALL, [full, candidate("1", running=3, max_requests=4)])
    assert decision.rank == ["1", "0"]
    assert decision.reason == "engine-0 holds 480 tokens but would start later"


def test_claimed_tokens_count_as_queued() -> None:
    assert rank(candidate("a", tokens=200), candidate("b", blocks=9)) == ["b", "a"]


def test_a_faster_replica_wins_when_nobody_holds_anything() -> None:
    fast = Candidate(ReplicaState("z", "1", load=ReplicaLoad(prefill_tokens_per_s=9000.0)))
    assert rank(candidate("a"), fast)[0] == "z"


def test_a_replica_that_has_no_rate_yet_has_the_fleets() -> None:
    """By the default rate it would look ten times slower than these, and never get a call."""
    quick = ReplicaLoad(prefill_s_per_token=5e-5)
    fleet = [Candidate(ReplicaState(name, "1", load=quick, held_blocks=9)) for name in "abc"]
    new = Candidate(ReplicaState("z", "1"))
    assert rank(*fleet, new) == ["z", *rank(*fleet)]
    waiting = Candidate(ReplicaState("z", "1", load=ReplicaLoad(queued_prefill_tokens=100_000)))
    decision = ExpectedTtft().decide(CALL, [*fleet, waiting])
    assert decision.rank[-1] == "z"
    assert decision.estimates[-1].queue_s == pytest.approx(5.0)


def test_rates_that_differ_by_noise_tie() -> None:
    noisy = Candidate(ReplicaState("z", "1", load=ReplicaLoad(prefill_tokens_per_s=1010.0), held_blocks=99))
    assert rank(candidate("a"), noisy)[0] == "a"


def test_ties_go_to_the_fewest_requests_then_the_fewest_blocks_then_by_hash() -> None:
    order = rank(
        candidate("a", running=2),
        candidate("b", waiting=4),
        candidate("c", blocks=70),
        candidate("e"),
        candidate("d"),
    )
    assert set(order[:2]) == {"d", "e"}
    assert order[2:] == ["c", "a", "b"]


def test_a_claim_counts_as_a_request() -> None:
    assert (
        rank(candidate("a", claims=2), candidate("b")) == rank(candidate("b"), candidate("a", claims=2)) == ["b", "a"]
    )


def test_different_conversations_on_one_stale_state_do_not_all_go_to_the_idle_replica() -> None:
    """Several gateways decide at once, before any of them sees the others' claims."""
    fleet = [candidate("idle"), *(candidate(name, running=1) for name in "abc")]
    chosen = Counter(rank(*fleet, call=call(number))[0] for number in range(200))
    assert set(chosen) == {"idle", "a", "b", "c"}
    assert max(chosen.values()) < 100
    assert len({rank(*fleet, call=call(5))[0] for _ in range(5)}) == 1, "one conversation goes to one"


@pytest.mark.parametrize("held", [0, 32])
def test_conversations_with_one_system_prompt_do_not_all_go_to_one_of_many_idle_replicas(held: int) -> None:
    """On one stale state, as several gateways decide; all replicas hold the system prompt, or none does."""
    names, system = ConversationNames(), [5] * 512
    fleet = [candidate(f"r{number}", held=held) for number in range(8)]

    def first(conversation: int) -> str:
        prompt = [*system, *[1000 + conversation] * 512]
        one = Call(len(prompt), 16, SPACE.keys(prompt))
        return rank(*fleet, call=replace(one, conversation=names.name(one)))[0]

    for conversation in range(40):
        first(conversation)
    chosen = Counter(first(number) for number in range(100, 300))
    assert len(chosen) == len(fleet)
    assert max(chosen.values()) < 2 * 200 / len(fleet), "all 200 of one replica before"


def test_a_replica_with_clearly_more_requests_is_not_a_tie() -> None:
    fleet = [candidate("idle"), *(candidate(name, running=3) for name in "abc")]
    assert {rank(*fleet, call=call(number))[0] for number in range(50)} == {"idle"}


def test_a_shared_first_block_does_not_pile_all_conversations_onto_one() -> None:
    """A common system prompt is a block that one replica has first."""
    fleet = {name: candidate(name, held=int(name == "a")) for name in "abc"}
    chosen = []
    for number in range(6):
        chosen.append(rank(*fleet.values(), call=call(number))[0])
        one = fleet[chosen[-1]]
        state = replace(one.state, held_blocks=one.state.held_blocks + 32)
        fleet[chosen[-1]] = replace(one, state=state, held_blocks=1, claimed_blocks=1, fast_blocks=1)
    assert Counter(chosen) == {"a": 2, "b": 2, "c": 2}


def test_siblings_stay_with_their_conversation_until_queueing_costs_more_than_recomputing() -> None:
    """Evaluators of one conversation, each claimed where it was sent: 64 of their 512 tokens are their own."""
    claims = 0
    while True:
        holder = candidate("h", held=28, tokens=64 * claims, claims=claims)
        if rank(holder, candidate("i"))[0] == "i":
            break
        claims += 1
    queue_s, recompute_s = 0.064 * claims, 0.448
    assert queue_s > recompute_s, "it left too early"
    assert queue_s < 2 * recompute_s, "it stayed too long"


def test_the_margin_decides_how_much_more_a_call_waits_for_what_is_held() -> None:
    holder, idle = candidate("h", held=28, queued_prefill_tokens=640), candidate("i")
    greedy = ExpectedTtft(tuning=ExpectedTtftTuning(tie_share=0, duplicate_share=0))
    sparing = ExpectedTtft(tuning=ExpectedTtftTuning(tie_share=0, duplicate_share=1))
    assert greedy.decide(CALL, [holder, idle]).rank == ["i", "h"]
    assert sparing.decide(CALL, [holder, idle]).rank == ["h", "i"]


def test_of_equal_queues_a_prompt_goes_where_what_it_evicts_is_older() -> None:
    """One's cache is full of what runs, the other's of what nobody asked for in a while."""
    full, idle = candidate("a", kv_usage=0.9), candidate("b", kv_usage=0.2)
    assert rank(full, idle)[0] == "b"
    indifferent = ExpectedTtft(tuning=ExpectedTtftTuning(eviction_share=0))
    assert indifferent.decide(CALL, [full, idle]).rank[0] == "a"


def test_a_prefix_is_left_the_less_readily_the_more_its_copy_evicts() -> None:
    def leaves(usage: float) -> bool:
        holder = candidate("h", held=28, queued_prefill_tokens=900, kv_usage=usage)
        return rank(holder, candidate("i", kv_usage=usage))[0] == "i"

    assert leaves(0.0)
    assert not leaves(0.7)


def test_an_adapter_is_loaded_where_a_long_prefix_is() -> None:
    holder = candidate("h", held=30, resident=("other",), adapter_load_s=0.1)
    decision = ExpectedTtft().decide(call(7, version="safety"), [holder, candidate("r", resident=("safety",))])
    assert decision.rank == ["h", "r"]
    assert decision.estimates[0].adapter_s == pytest.approx(0.1)


def test_a_short_prefix_is_prefilled_where_the_adapter_is() -> None:
    holder = candidate("h", held=4, resident=("other",), adapter_load_s=1.0)
    decision = ExpectedTtft().decide(call(7, version="safety"), [holder, candidate("r", resident=("safety",))])
    assert decision.rank == ["r", "h"]
    assert decision.reason == "engine-h holds 64 tokens but would have to load the adapter"


def test_a_holder_whose_cache_overflows_spills() -> None:
    full = candidate("h", held=16, kv_usage=0.99, kv_tokens=2000, service_s=9.0, running=1)
    decision = ExpectedTtft().decide(CALL, [full, candidate("i", kv_tokens=2000)])
    assert decision.rank == ["i", "h"]
    assert decision.reason == "engine-h holds 256 tokens but its KV cache has no room"


def test_new_conversations_spread_over_an_idle_fleet() -> None:
    blocks = dict.fromkeys("abc", 0)
    for _ in range(9):
        chosen = rank(*(candidate(name, blocks=count) for name, count in blocks.items()))[0]
        blocks[chosen] += 32
    assert set(blocks.values()) == {96}


def test_a_replica_that_published_nothing_is_reached_when_others_are_busy() -> None:
    assert rank(unpublished("0"), candidate("1")) == ["1", "0"]
    assert rank(unpublished("0"), candidate("1", queued_prefill_tokens=5000)) == ["0", "1"]


def test_nobody_holding_anything_is_said() -> None:
    reason = ExpectedTtft().decide(CALL, [candidate("a")]).reason
    assert reason == "least loaded, no prefix anywhere"


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 20), st.booleans()), min_size=40, max_size=120))
def test_of_many_candidates_the_shortlist_has_the_one_with_the_least_to_do(
    parts: list[tuple[float, int, bool]],
) -> None:
    candidates = [
        candidate(
            f"r{number:04d}",
            held=held,
            resident=("a",) if is_resident else ("b",),
            queued_prefill_s=queue_s,
            prefill_s_per_token=0.01,
            adapter_load_s=0.5,
        )
        for number, (queue_s, held, is_resident) in enumerate(parts)
    ]

    def work_s(one: Candidate) -> float:
        queue_s = one.state.load.queued_prefill_s
        return queue_s + (512 - one.held_blocks * 16) * 0.01 + (0.5 if "a" not in one.state.resident else 0.0)

    shown = ExpectedTtft().decide(replace(CALL, adapter="a", version="a"), candidates).rank
    by_name = {one.state.replica: work_s(one) for one in candidates}
    assert len(shown) == ExpectedTtftTuning().shortlist
    assert min(by_name[name] for name in shown) == min(by_name.values())


def queued(name: str, *, held: int = 0, ageing: float = 0.05) -> Candidate:
    """A replica with a minute of long prefills before it: in its queue, or ahead of everything without ageing."""
    waiting = [(60.0, 60.0)]
    return candidate(
        name,
        held=held,
        queued_prefill_s=60.0,
        queued_prefill_tokens=60_000,
        prefill_s_per_token=0.001,
        waiting=1,
        ageing=ageing,
        queue_profile=queue_profile(waiting) if ageing else (),
    )


def test_a_short_call_stays_with_its_prefix_before_a_queue_of_long_ones() -> None:
    idle = candidate("idle", prefill_s_per_token=0.001)
    decision = ExpectedTtft().decide(CALL, [queued("busy", held=30), idle])
    assert decision.rank[0] == "busy"
    assert decision.estimates[0].queue_s == 0
    assert ExpectedTtft().decide(CALL, [queued("busy", held=30, ageing=0.0), idle]).rank[0] == "idle"


def test_the_shortlist_of_a_large_fleet_has_the_replica_whose_queue_is_not_before_the_call() -> None:
    fleet = [candidate(f"r{number:02d}", prefill_s_per_token=0.001) for number in range(60)]
    assert ExpectedTtft().decide(CALL, [*fleet, queued("busy", held=30)]).rank[0] == "busy"


def test_a_cold_call_spares_the_replica_whose_answers_are_slow() -> None:
    slow = candidate("slow", running=3, inter_token_s=0.4, prefill_s_per_token=0.001)
    well = candidate("well", running=3, inter_token_s=0.08, queued_prefill_s=0.15, prefill_s_per_token=0.001)
    decision = ExpectedTtft().decide(CALL, [slow, well])
    assert decision.rank == ["well", "slow"]
    assert decision.estimates[1].tpot_s > 0
    held = replace(slow, held_blocks=30, claimed_blocks=30, fast_blocks=30)
    assert ExpectedTtft().decide(CALL, [held, well]).rank[0] == "slow", "what is cached delays nobody"


class Fleet:
    """Idle replicas that hold what they were sent, and say so before the next call comes."""

    def __init__(self, *names: str, tokens: int = 8192) -> None:
        self._tokens = tokens
        self._held: dict[str, set[bytes]] = {name: set() for name in names}

    def send(self, tokens: Sequence[int], *, answer_tokens: int = 0, adapter: str | None = None) -> str:
        """Send a prompt; return who got it and now holds prompt and answer."""
        salt = b"" if adapter is None else adapter.encode()
        keys = SPACE.extend(SPACE.root(None), tokens, salt)
        sent = Call(len(tokens), 16, keys, adapter)
        chosen = ExpectedTtft().decide(sent, [self._candidate(name, keys) for name in self._held]).rank[0]
        self._held[chosen] |= set(SPACE.extend(SPACE.root(None), [*tokens, *range(answer_tokens)], salt))
        return chosen

    def _candidate(self, name: str, keys: Sequence[bytes]) -> Candidate:
        held = self._held[name]
        overlap = next((index for index, key in enumerate(keys) if key not in held), len(keys))
        return candidate(name, held=overlap, blocks=len(held), kv_tokens=self._tokens)


@pytest.mark.parametrize("run", range(20))
def test_conversations_and_lora_twins_of_a_demo_fill_both_idle_replicas(run: int) -> None:
    fleet = Fleet("a", "b")
    conversation = [run, *range(1, 528)]
    first = fleet.send(conversation, answer_tokens=48)
    judged = [*conversation, *range(48), *[9] * 5]
    assert fleet.send(judged) == first, "its own conversation stays"
    twins = [fleet.send(judged, adapter=name) for name in ("uncertainty-lora", "safety-lora")]
    assert twins[0] != first, "the other cache is empty"
    assert [fleet.send(judged, adapter=name) for name in ("uncertainty-lora", "safety-lora")] == twins
    emptier = fleet.send([100 + run, *range(1, 1000)])
    assert emptier == ("a" if Counter([first, *twins])["a"] == 1 else "b")


def test_an_idle_replica_with_a_larger_cache_gets_more_cold_prompts() -> None:
    small, large = candidate("small", blocks=10, kv_tokens=4096), candidate("large", blocks=100, kv_tokens=16384)
    assert {rank(small, large, call=call(number))[0] for number in range(20)} == {"large"}


def test_what_is_claimed_and_not_reported_yet_takes_room() -> None:
    empty, claimed = candidate("e", kv_tokens=4096), candidate("c", blocks=3, tokens=100, claims=1, kv_tokens=4096)
    assert {rank(claimed, empty, call=call(number))[0] for number in range(20)} == {"e"}


def test_cold_prompts_on_one_stale_state_of_equally_filled_replicas_spread_by_hash() -> None:
    fleet = [candidate("a", blocks=40, kv_tokens=4096), candidate("b", blocks=44, kv_tokens=4096)]
    chosen = Counter(rank(*fleet, call=call(number))[0] for number in range(100))
    assert min(chosen["a"], chosen["b"]) > 25


def test_a_replica_whose_warm_up_was_disturbed_gets_calls_and_can_measure_again() -> None:
    """Its engine started while another one computed: what it measured then is twice what it takes."""
    used = candidate("used", blocks=40, kv_tokens=8192, prefill_s_per_token=0.7e-3, prefill_samples=20)
    idle = candidate("idle", kv_tokens=8192, prefill_s_per_token=1.4e-3, prefill_samples=2)
    assert {rank(used, idle, call=call(number))[0] for number in range(20)} == {"idle"}
    slow = candidate("slow", kv_tokens=8192, prefill_s_per_token=1.4e-3, prefill_samples=20)
    assert {rank(used, slow, call=call(number))[0] for number in range(20)} == {"used"}


@pytest.mark.parametrize(("running", "chosen"), [(0, {"a"}), (1, {"a", "b"})])
def test_room_decides_finely_only_while_a_replica_is_idle(running: int, chosen: set[str]) -> None:
    fleet = [candidate(name, blocks=blocks, running=running, kv_tokens=8192) for name, blocks in (("a", 0), ("b", 20))]
    assert {rank(*fleet, call=call(number))[0] for number in range(20)} == chosen


class TestAdapters:
    """Where calls of an adapter go that some replicas have loaded, or none."""

    CALL = replace(CALL, adapter="safety", version="safety")

    def test_a_call_goes_where_its_adapter_is(self) -> None:
        candidates = [candidate("a", adapter_load_s=0.1), candidate("b", resident=("safety",), adapter_load_s=0.1)]
        assert rank(*candidates, call=self.CALL) == ["b", "a"]

    def test_another_version_of_the_adapter_is_no_help(self) -> None:
        old, new = (candidate(name, resident=(name,), adapter_load_s=0.1) for name in ("old", "new"))
        assert rank(old, new, call=replace(CALL, adapter="safety", version="new")) == ["new", "old"]

    def test_a_hot_adapter_is_loaded_on_one_more_replica_when_its_queue_costs_more_than_the_load(self) -> None:
        def ranked(queued: int) -> list[str]:
            holder = candidate("h", resident=("safety",), adapter_load_s=0.4, queued_prefill_tokens=queued)
            return rank(holder, candidate("other", adapter_load_s=0.4), call=self.CALL)

        assert ranked(500) == ["h", "other"], "0.5 s in the queue: less than the load and what it evicts"
        assert ranked(2000) == ["other", "h"]

    def test_a_cold_adapter_s_calls_go_to_one_replica_whatever_their_conversations(self) -> None:
        """Gateways that have not heard of each other's choice yet have it loaded once."""
        candidates = [candidate(name, adapter_load_s=0.4) for name in "abcd"]
        chosen = {
            rank(*candidates, call=replace(self.CALL, keys=[bytes([number]) * 16 for _ in range(32)]))[0]
            for number in range(20)
        }
        assert len(chosen) == 1
        others = {rank(*candidates, call=replace(self.CALL, version=f"adapter-{number}"))[0] for number in range(40)}
        assert others == set("abcd"), "and different ones to different replicas"

    def test_a_load_under_way_is_better_than_one_that_has_not_begun(self) -> None:
        loading = candidate("z", adapter_load_s=1.0, active=("safety",))
        assert rank(candidate("a", adapter_load_s=1.0), loading, call=self.CALL) == ["z", "a"]
