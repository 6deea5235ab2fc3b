"""A real engine with the plugin against PEFT: exact answers, shared blocks, true events."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import pytest
from tiny import assert_exact, words

pytestmark = pytest.mark.engine

BLOCK = 32
INVOCATIONS = {"certainty": [901, 902], "safety": [911, 912, 913]}


def call(adapter: str | None, count: int, seed: int, tail: int = 3) -> tuple[list[int], str | None]:
    """Return a prompt that invokes ``adapter`` ``tail`` tokens before its end."""
    prompt = words(count, seed)
    invocation = INVOCATIONS.get(adapter or "", [])
    return (prompt + invocation + words(tail, seed + 1), adapter) if invocation else (prompt, adapter)


def test_base_lora_and_alora_in_one_batch_with_every_slot_full_equal_peft(engine: Any, reference: Any) -> None:
    """Chunks of 128 tokens end before, at and after activation points, and all adapters run at once."""
    calls = [
        call(None, 70, 1),
        call("certainty", 90, 2),
        call("style", 61, 3),
        call("safety", 150, 4),
        call("summary", 33, 5),
        call("certainty", 128, 6, tail=40),
        call(None, 200, 7),
        call("safety", 0, 8),
    ]
    assert_exact(reference, calls, engine.answers(calls))


def test_the_adapters_change_answers(engine: Any, reference: Any) -> None:
    """Without an effect to see, exactness would prove nothing."""
    prompt, _ = call("certainty", 90, 2)
    answers = {name: reference.answer(prompt, name).tokens for name in (None, "certainty", "style")}
    assert len({tuple(tokens) for tokens in answers.values()}) == 3


def test_an_alora_call_on_warm_base_blocks_is_exact_and_recomputes_only_its_last_blocks(
    engine: Any, reference: Any
) -> None:
    """Base first, then two sibling aLoRAs, then base again: one prefix, prefilled once."""
    prompt = words(200, 20)
    (base,) = engine.answers([(prompt, None)], max_tokens=8)
    turn = prompt + base.tokens
    calls = [(turn + INVOCATIONS[name], name) for name in ("certainty", "safety")]
    whole = (len(turn) - 1) // BLOCK * BLOCK
    for one in calls:
        (answer,) = engine.answers([one])
        assert answer.cached_tokens == whole
        assert_exact(reference, [one], [answer])
    longer = (turn + words(40, 21), None)
    (after,) = engine.answers([longer])
    assert after.cached_tokens == whole
    assert_exact(reference, [longer], [after])


def test_an_alora_call_that_prefilled_leaves_its_prefix_to_the_base_model(engine: Any, reference: Any) -> None:
    """The blocks before the activation point are base blocks, whoever computed them."""
    prompt = words(100, 30)
    first = (prompt + INVOCATIONS["certainty"], "certainty")
    assert_exact(reference, [first], engine.answers([first]))
    second = (prompt + words(30, 31), None)
    (answer,) = engine.answers([second])
    assert answer.cached_tokens == 96
    assert_exact(reference, [second], [answer])


def test_a_plain_lora_shares_only_with_itself(engine: Any, reference: Any) -> None:
    """A LoRA's blocks carry its weights from token 0, with or without an invocation in the prompt."""
    prompt = words(130, 40)
    engine.answers([(prompt, None)])
    engine.answers([(prompt + INVOCATIONS["safety"], "safety")])
    one = (prompt, "style")
    (cold,) = engine.answers([one])
    assert cold.cached_tokens == 0
    (warm,) = engine.answers([one])
    assert warm.cached_tokens == 128
    (other,) = engine.answers([(prompt, "summary")])
    assert other.cached_tokens == 0
    assert_exact(reference, [one, one], [cold, warm])


def test_only_the_last_invocation_activates(engine: Any, reference: Any) -> None:
    """Earlier invocations are ordinary tokens, and their blocks the base model's."""
    prompt = [
        *words(40, 50),
        *INVOCATIONS["certainty"],
        *words(60, 51),
        *INVOCATIONS["certainty"],
        *words(2, 52),
    ]
    engine.answers([(prompt, None)])
    one = (prompt, "certainty")
    (answer,) = engine.answers([one])
    assert answer.cached_tokens == 96
    assert_exact(reference, [one], [answer])


def test_a_block_that_contains_the_activation_point_is_not_shared(engine: Any, reference: Any) -> None:
    """The invocation inside a cached base block: that block is computed again, with the adapter."""
    prompt = [*words(80, 60), *INVOCATIONS["certainty"], *words(60, 61)]
    engine.answers([(prompt, None)])
    one = (prompt, "certainty")
    (answer,) = engine.answers([one])
    assert answer.cached_tokens == 64
    (again,) = engine.answers([one])
    assert again.cached_tokens == 128
    assert_exact(reference, [one, one], [answer, again])


def test_salts_keep_tenants_apart(engine: Any) -> None:
    """An aLoRA call sees base blocks of its own salt only."""
    prompt = words(100, 70)
    engine.answers([(prompt, None)], cache_salt="tenant-a")
    one = (prompt + INVOCATIONS["certainty"], "certainty")
    for salt, cached in (("tenant-b", 0), (None, 0), ("tenant-a", 96)):
        (answer,) = engine.answers([one], cache_salt=salt)
        assert answer.cached_tokens == cached, salt


def test_tenants_share_the_blocks_of_a_shared_prefix_and_no_others(engine: Any, reference: Any) -> None:
    """Answers are those of unshared ones, of the base model and of an adapter that begins behind the prefix."""
    from vllm_alora.shared_prefix import PUBLIC_KEY

    prefix, tail = words(64, 71), words(40, 72)
    extra_args = {PUBLIC_KEY: 64}
    one = (prefix + tail, None)
    for salt, cached in (("tenant-a", 0), ("tenant-b", 64), ("tenant-a", 96)):
        (answer,) = engine.answers([one], cache_salt=salt, extra_args=extra_args)
        assert answer.cached_tokens == cached, salt
        assert_exact(reference, [one], [answer])
    adapted = (prefix + tail + INVOCATIONS["certainty"], "certainty")
    for salt, cached in (("tenant-c", 64), ("tenant-a", 96), (None, 64)):
        (answer,) = engine.answers([adapted], cache_salt=salt, extra_args=extra_args if salt else None)
        assert answer.cached_tokens == cached, salt
        assert_exact(reference, [adapted], [answer])


def test_clients_cannot_say_what_is_everybodys(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reserved key would let a client read blocks of requests without a salt."""
    from vllm.exceptions import VLLMValidationError

    from vllm_alora.shared_prefix import PUBLIC_KEY, TRUSTED_VARIABLE

    monkeypatch.setenv(TRUSTED_VARIABLE, "0")
    with pytest.raises(VLLMValidationError, match="reserved"):
        engine.answers([(words(40, 73), None)], extra_args={PUBLIC_KEY: 32})


def test_every_choice_of_a_call_is_exact(engine: Any, reference: Any) -> None:
    """``n=2``: the children of one call carry its activation point."""
    from vllm import SamplingParams

    prompt, adapter = call("safety", 75, 80)
    params = SamplingParams(n=2, max_tokens=6, min_tokens=6, temperature=1e-6, top_k=1, seed=1, detokenize=False)
    (output,) = engine.llm.generate(
        {"prompt_token_ids": prompt}, params, lora_request=engine.lora(adapter), use_tqdm=False
    )
    expected = reference.answer(prompt, adapter, 6).tokens
    assert [list(choice.token_ids) for choice in output.outputs] == [expected, expected]


def test_a_prompt_without_the_invocation_is_refused_with_what_was_expected(engine: Any) -> None:
    """A silent base answer would look like the adapter's."""
    from vllm.exceptions import VLLMValidationError

    with pytest.raises(VLLMValidationError, match=r"'certainty'.*w901 w902.*\[901, 902\]"):
        engine.answers([(words(40, 90), "certainty")])
    (answer,) = engine.answers([(words(40, 90), None)])
    assert len(answer.tokens) == 8


def test_clients_cannot_set_the_activation_point(engine: Any) -> None:
    """The reserved key would let a client read another adapter's blocks."""
    from vllm.exceptions import VLLMValidationError

    from vllm_alora.activation import ACTIVATION_KEY

    with pytest.raises(VLLMValidationError, match="reserved"):
        engine.answers([call("certainty", 40, 91)], extra_args={ACTIVATION_KEY: 0})


def test_events_name_the_adapter_only_from_the_activation_point_on(engine: Any, events_endpoint: str) -> None:
    """One store call of an aLoRA call spans both kinds of block and becomes two events, in order."""
    import zmq

    subscriber = zmq.Context.instance().socket(zmq.SUB)
    subscriber.setsockopt(zmq.SUBSCRIBE, b"")
    subscriber.connect(events_endpoint)
    prompt = [*words(70, 100), *INVOCATIONS["safety"], *words(60, 101)]
    seen: list[Any] = []
    # A subscription takes a moment to arrive, so the call is made until its events come.
    for _ in range(20):
        if seen:
            break
        engine.llm.reset_prefix_cache()
        engine.answers([(prompt, "safety")], max_tokens=1, cache_salt="t")
        while subscriber.poll(500):
            seen += _stored(subscriber.recv_multipart()[-1])
        seen = [event for event in seen if event["extra_keys"] and "t" in (event["extra_keys"][0] or ())] and seen
    subscriber.close()
    by_adapter = [(event["lora_name"], len(event["block_hashes"])) for event in seen]
    assert by_adapter[0] == (None, 2)
    assert {name for name, _ in by_adapter[1:]} == {"safety"}
    assert sum(count for _, count in by_adapter) == 4
    assert [token for event in seen for token in event["token_ids"]] == prompt[:128]
    chain = [digest for event in seen for digest in event["block_hashes"]]
    for before, event in pairwise(seen):
        assert event["parent_block_hash"] == before["block_hashes"][-1]
    assert seen[0]["parent_block_hash"] is None
    assert len(set(chain)) == 4


def _stored(payload: bytes) -> list[Any]:
    _, events, *_ = msgspec.msgpack.decode(payload)
    return [event for event in events if event["type"] == "BlockStored"]


def test_equal_tokens_with_another_activation_point_in_their_block_are_not_reused(engine: Any, reference: Any) -> None:
    """A token of the next block completes a later, last invocation: the block before it changes its content."""
    first, second = INVOCATIONS["certainty"]
    block = [*words(20, 90), first, second, *words(9, 91), first]
    assert len(block) == BLOCK
    calls = [([*block, *words(10, 92)], "certainty"), ([*block, second, *words(9, 93)], "certainty")]
    for one in (*calls, calls[0]):
        (answer,) = engine.answers([one])
        assert_exact(reference, [one], [answer])
