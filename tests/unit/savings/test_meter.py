"""What a replica says a call saved, call by call, against an engine that is played here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from aloraserve.blocks import AdapterEffect, BlockKey, KeySpace
from aloraserve.engine_model.block_cache import BlockCache
from aloraserve.engine_model.step_learner import ModelQuality, StepLearner
from aloraserve.engine_model.step_model import StepModel
from aloraserve.savings.base import CachedBySource, CallSavings
from aloraserve.savings.meter import ENOUGH_SAMPLES, SavingsMeter, confidence

BLOCK = 8
SPACE = KeySpace("model", "tokenizer", BLOCK)
MODEL = StepModel(fixed_s=0.01, s_per_token=0.001, s_per_square=1e-6)
SURE = ModelQuality(ENOUGH_SAMPLES, 0.0, 10_000)
SALTS = {name: AdapterEffect(name, "digest", 0).salt for name in ("safety", "sibling", "plain")}
INVOCATION = [900, 901]
PROMPT = list(range(100, 100 + 10 * BLOCK))


class Known(StepLearner):
    """A learner that knows what the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.known: StepModel | None = MODEL
        self.sure = SURE

    def model(self) -> StepModel | None:
        return self.known

    @property
    def quality(self) -> ModelQuality:
        return self.sure


class Replica:
    """An engine's cache, with a meter beside it; plain LoRAs are those named so."""

    def __init__(self, capacity_blocks: int = 100) -> None:
        self.learner = Known()
        self.meter = SavingsMeter(SPACE, SALTS.get, capacity_blocks, self.learner)
        self.cache = BlockCache(max(capacity_blocks, 1))
        self._calls = 0

    def call(
        self,
        adapter: str | None,
        conversation: Sequence[int],
        answer: Sequence[int] = (),
    ) -> CallSavings | None:
        self._calls += 1
        request_id, prompt, keys = f"r{self._calls}", *self.prompt(adapter, conversation)
        invocation_ids = INVOCATION if adapter not in (None, "plain") else ()
        self.meter.accept(request_id, prompt, keys, adapter, None, invocation_ids)
        cached_tokens = min(self.cache.match(keys), (len(prompt) - 1) // BLOCK) * BLOCK
        found = self.meter.first_token(request_id, cached_tokens)
        self.meter.more_tokens(request_id, 0, answer)
        self.meter.end(request_id)
        whole = [*prompt, *answer[:-1]]
        self.hold(SPACE.keys(whole, adapter=self._effect(adapter, len(conversation))))
        return found

    def estimate(self, adapter: str | None, conversation: Sequence[int], answer: Sequence[int] = ()) -> CallSavings:
        found = self.call(adapter, conversation, answer)
        assert found is not None
        return found

    def prompt(self, adapter: str | None, conversation: Sequence[int]) -> tuple[list[int], list[BlockKey]]:
        tokens = [*conversation, *(INVOCATION if adapter else ())]
        return tokens, SPACE.keys(tokens, adapter=self._effect(adapter, len(conversation)))

    def hold(self, keys: list[BlockKey]) -> None:
        if self.cache.allocate("r", keys, len(keys)) is not None:
            self.cache.release("r")

    @staticmethod
    def _effect(adapter: str | None, activation: int) -> AdapterEffect | None:
        if adapter is None:
            return None
        return AdapterEffect(adapter, "digest", 0 if adapter == "plain" else activation)


@pytest.fixture
def replica() -> Replica:
    return Replica()


def test_an_aloras_first_call_saves_the_conversation_that_the_base_model_computed(replica: Replica) -> None:
    replica.call(None, PROMPT)
    saved = replica.estimate("safety", PROMPT)
    whole, shared = len(PROMPT) + len(INVOCATION), len(PROMPT)
    assert saved.saved_tokens == shared
    assert saved.counterfactual_cached_tokens == 0
    assert saved.saved_s == pytest.approx(MODEL.prefill.seconds(0, whole) - MODEL.prefill.seconds(shared, whole))
    assert saved.confidence == 1.0
    assert saved.cached == CachedBySource(base=shared)


def test_the_counterfactual_pays_for_the_adapter_from_the_first_token_on(replica: Replica) -> None:
    replica.learner.known = replace(MODEL, s_per_adapter_token=1e-4)
    replica.call(None, PROMPT)
    whole, shared = len(PROMPT) + len(INVOCATION), len(PROMPT)
    expected_s = MODEL.prefill.seconds(0, whole) - MODEL.prefill.seconds(shared, whole)
    assert replica.estimate("safety", PROMPT).saved_s == pytest.approx(expected_s + shared * 1e-4)


def test_an_alora_that_computes_its_conversation_itself_saves_the_adapters_work_on_it(replica: Replica) -> None:
    replica.learner.known = replace(MODEL, s_per_adapter_token=1e-4)
    saved = replica.estimate("safety", PROMPT)
    assert (saved.saved_tokens, saved.saved_s) == (0, pytest.approx(len(PROMPT) * 1e-4))


def test_a_plain_lora_and_the_base_model_save_no_adapters_work(replica: Replica) -> None:
    replica.learner.known = replace(MODEL, s_per_adapter_token=1e-4)
    assert replica.estimate("plain", PROMPT).saved_s == pytest.approx(0.0)
    assert replica.estimate(None, range(5000, 5100)).saved_s == pytest.approx(0.0)


def test_a_prompt_of_several_steps_pays_for_each(replica: Replica) -> None:
    replica.meter = SavingsMeter(SPACE, SALTS.get, 100, replica.learner, step_tokens=32)
    replica.call(None, PROMPT)
    saved_s = replica.estimate("safety", PROMPT).saved_s
    whole, shared = len(PROMPT) + len(INVOCATION), len(PROMPT)
    one_step_s = MODEL.prefill.seconds(0, whole) - MODEL.prefill.seconds(shared, whole)
    assert saved_s == pytest.approx(one_step_s + 2 * MODEL.fixed_s), "82 tokens in steps of 32, against one of two"


def start(replica: Replica, name: str, adapter: str | None) -> None:
    prompt, keys = replica.prompt(adapter, PROMPT)
    replica.meter.accept(name, prompt, keys, adapter, None, INVOCATION if adapter else ())


def test_a_call_that_waits_for_others_is_saved_their_prefills_too(replica: Replica) -> None:
    replica.call(None, PROMPT)
    for name, adapter in (("a", "safety"), ("b", None), ("c", "sibling")):
        start(replica, name, adapter)
    found = [replica.meter.first_token(name, len(PROMPT) - BLOCK * (name == "b")) for name in "abc"]
    first, base, last = (one for one in found if one is not None)
    assert first.saved_queue_s == 0
    assert (base.saved_s, base.saved_queue_s) == (pytest.approx(first.saved_s), pytest.approx(first.saved_s))
    assert last.saved_queue_s == pytest.approx(first.saved_s)
    assert last.saved_s == pytest.approx(2 * first.saved_s)


def test_a_call_that_comes_after_a_first_token_did_not_wait_for_it(replica: Replica) -> None:
    replica.call(None, PROMPT)
    start(replica, "a", "safety")
    assert replica.meter.first_token("a", len(PROMPT)) is not None
    start(replica, "c", "sibling")
    found = replica.meter.first_token("c", len(PROMPT))
    assert found is not None
    assert found.saved_queue_s == 0


def test_a_call_that_overtakes_another_did_not_wait_for_it(replica: Replica) -> None:
    replica.call(None, PROMPT)
    for name, adapter in (("a", "safety"), ("c", "sibling")):
        start(replica, name, adapter)
    found = replica.meter.first_token("c", len(PROMPT))
    assert found is not None
    assert found.saved_queue_s == 0
    replica.meter.end("a")
    assert not replica.meter._waiting


def test_an_aloras_repeated_call_saves_nothing_as_it_would_be_cached_anyway(replica: Replica) -> None:
    replica.call(None, PROMPT)
    replica.call("safety", PROMPT)
    again = replica.estimate("safety", PROMPT)
    assert (again.saved_tokens, again.saved_s) == (0, 0.0)
    assert again.counterfactual_cached_tokens == len(PROMPT)


def test_after_the_conversation_grew_only_what_was_added_is_saved(replica: Replica) -> None:
    replica.call(None, PROMPT)
    replica.call("safety", PROMPT)
    grown = [*PROMPT, *range(500, 500 + 3 * BLOCK)]
    replica.call(None, grown)
    assert replica.estimate("safety", grown).saved_tokens == 3 * BLOCK


def test_a_sibling_saves_what_another_alora_computed(replica: Replica) -> None:
    replica.call("safety", PROMPT)
    saved = replica.estimate("sibling", PROMPT)
    assert saved.saved_tokens == len(PROMPT)
    assert saved.cached == CachedBySource(sibling=len(PROMPT))


def test_a_plain_lora_never_saves(replica: Replica) -> None:
    replica.call(None, PROMPT)
    for conversation in (PROMPT, PROMPT, [*PROMPT, *range(500, 530)]):
        saved = replica.estimate("plain", conversation, range(700, 720))
        assert (saved.saved_tokens, saved.saved_s) == (0, 0.0)


def test_a_plain_loras_answer_is_its_own_in_the_next_turn(replica: Replica) -> None:
    answer = list(range(700, 700 + 2 * BLOCK))
    replica.call("plain", PROMPT, answer)
    following = [*PROMPT, *INVOCATION, *answer, *range(500, 510)]
    saved = replica.estimate("plain", following)
    assert saved.saved_tokens == 0
    assert saved.cached == CachedBySource(own=(len(PROMPT) + len(INVOCATION) + len(answer) - 1) // BLOCK * BLOCK)


def test_a_base_models_call_saves_what_an_alora_computed_before_it(replica: Replica) -> None:
    replica.call("safety", PROMPT)
    saved = replica.estimate(None, [*PROMPT, 1])
    assert saved.saved_tokens == len(PROMPT)
    assert saved.saved_s > 0
    assert saved.cached == CachedBySource(sibling=len(PROMPT))


def test_the_next_turn_of_a_base_conversation_saves_nothing(replica: Replica) -> None:
    answer = list(range(700, 700 + 3 * BLOCK + 1))
    replica.call(None, PROMPT, answer)
    saved = replica.estimate(None, [*PROMPT, *answer, *range(500, 510)])
    assert (saved.saved_tokens, saved.saved_s) == (0, 0.0)
    assert saved.cached == CachedBySource(own=len(PROMPT) + 3 * BLOCK)


def test_an_answers_last_token_was_never_computed(replica: Replica) -> None:
    answer = list(range(700, 700 + BLOCK))
    replica.call(None, PROMPT, answer)
    saved = replica.estimate(None, [*PROMPT, *answer, *range(500, 510)])
    assert (saved.counterfactual_cached_tokens, saved.saved_tokens) == (len(PROMPT), 0)


def test_each_of_several_answers_may_go_on(replica: Replica) -> None:
    prompt, keys = replica.prompt(None, PROMPT)
    replica.meter.accept("r", prompt, keys, None, None)
    replica.meter.first_token("r", 0)
    answers = {choice: list(range(700 + 100 * choice, 709 + 100 * choice)) for choice in (0, 1)}
    for choice, answer in answers.items():
        replica.meter.more_tokens("r", choice, answer[:4])
        replica.meter.more_tokens("r", choice, answer[4:])
    replica.meter.end("r")
    for answer in answers.values():
        replica.hold(SPACE.keys([*PROMPT, *answer]))
        saved = replica.estimate(None, [*PROMPT, *answer])
        assert saved.saved_tokens == 0
        assert saved.cached.own == len(PROMPT) + BLOCK


def test_a_call_is_slower_than_its_counterfactual_where_the_engine_has_lost_more(replica: Replica) -> None:
    replica.call("safety", PROMPT)
    replica.cache.clear()
    saved = replica.estimate("safety", PROMPT)
    assert saved.saved_tokens == -len(PROMPT)
    assert saved.saved_s < 0


def test_a_cache_that_was_emptied_would_have_been_without_reuse_too(replica: Replica) -> None:
    replica.call("safety", PROMPT)
    replica.cache.clear()
    replica.meter.emptied()
    assert replica.estimate("safety", PROMPT).saved_tokens == 0


def test_a_smaller_cache_would_have_lost_the_adapters_own_blocks() -> None:
    replica = Replica(capacity_blocks=12)
    replica.call(None, PROMPT)
    replica.call("safety", PROMPT)
    replica.call("sibling", PROMPT)
    again = replica.estimate("safety", PROMPT)
    assert again.counterfactual_cached_tokens == 2 * BLOCK, "the sibling's ten blocks took the place of others"
    assert again.saved_tokens == 8 * BLOCK


def test_the_last_token_is_computed_in_either_case(replica: Replica) -> None:
    prompt = PROMPT[: 4 * BLOCK]
    replica.call(None, prompt)
    saved = replica.estimate(None, prompt)
    assert saved.counterfactual_cached_tokens == 3 * BLOCK
    assert saved.saved_tokens == 0


def test_tenants_do_not_warm_each_others_counterfactual(replica: Replica) -> None:
    replica.call("safety", PROMPT)
    prompt, _ = replica.prompt("safety", PROMPT)
    keys = SPACE.keys(prompt, cache_salt="t", adapter=AdapterEffect("safety", "digest", len(PROMPT)))
    replica.meter.accept("r", prompt, keys, "safety", "t")
    saved = replica.meter.first_token("r", 0)
    assert saved is not None
    assert saved.counterfactual_cached_tokens == 0


def test_nothing_is_reported_of_an_adapter_that_is_not_known(replica: Replica) -> None:
    replica.call(None, PROMPT)
    assert replica.call("who", PROMPT, range(700, 730)) is None
    assert len(replica.meter._ghost) == len(PROMPT) // BLOCK


def test_nothing_is_reported_while_speed_or_capacity_are_not_known(replica: Replica) -> None:
    replica.call(None, PROMPT)
    replica.learner.known = None
    assert replica.call("safety", PROMPT) is None
    replica.learner.known = MODEL
    assert replica.estimate("safety", PROMPT).saved_tokens == 0, "it was followed all the same"
    without = Replica(capacity_blocks=0)
    assert without.call(None, PROMPT) is None


def test_nothing_is_reported_of_a_call_that_was_never_accepted_or_has_begun(replica: Replica) -> None:
    assert replica.meter.first_token("never", 0) is None
    replica.meter.more_tokens("never", 0, [1])
    replica.meter.end("never")
    prompt, keys = replica.prompt(None, PROMPT)
    replica.meter.accept("r", prompt, keys, None, None)
    assert replica.meter.first_token("r", 0) is not None
    assert replica.meter.first_token("r", 0) is None


def test_a_call_that_ends_without_a_token_leaves_nothing(replica: Replica) -> None:
    prompt, keys = replica.prompt(None, PROMPT)
    replica.meter.accept("r", prompt, keys, None, None)
    replica.meter.prepare("r")
    replica.meter.end("r")
    assert len(replica.meter._ghost) == len(replica.meter._stored) == len(replica.meter._calls) == 0


def test_what_it_remembers_is_bounded_by_the_engines_cache() -> None:
    replica = Replica(capacity_blocks=20)
    for number in range(50):
        replica.call("safety", range(1000 * number, 1000 * number + 10 * BLOCK), range(700, 730))
    assert len(replica.meter._ghost) <= 20
    assert len(replica.meter._stored) <= 20
    assert not replica.meter._calls


def test_a_prompt_that_no_engine_has_room_for_leaves_no_trace_in_the_ghost() -> None:
    replica = Replica(capacity_blocks=5)
    replica.call("safety", PROMPT, range(700, 730))
    assert len(replica.meter._ghost) == 0


@pytest.mark.parametrize(
    ("quality", "expected"),
    [
        (ModelQuality(), 0.0),
        (ModelQuality(ENOUGH_SAMPLES // 2, 0.0, 1000), 0.5),
        (ModelQuality(ENOUGH_SAMPLES, 0.25, 1000), 0.5),
        (ModelQuality(ENOUGH_SAMPLES, 0.5, 1000), 0.0),
        (ModelQuality(ENOUGH_SAMPLES, 0.0, 500), 0.5),
        (ModelQuality(10 * ENOUGH_SAMPLES, 0.1, 5000), 0.8),
        (ModelQuality(8, math.inf, 1000), 0.0),
    ],
)
def test_confidence_is_of_samples_error_and_reach(quality: ModelQuality, expected: float) -> None:
    assert confidence(quality, 1000) == pytest.approx(expected)
