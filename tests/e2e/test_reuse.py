"""Calls land on the replica that holds their prefix, and nothing that one call computed is computed again."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.peft_reference import answers as peft_answers

BASE = "SmolLM2-135M-Instruct"
BLOCK = 32
INTRINSICS = ("uncertainty", "safety", "hallucination")
WORDS = [
    "harbour",
    "lantern",
    "ferry",
    "timber",
    "orchard",
    "signal",
    "copper",
    "willow",
    "market",
    "granite",
    "river",
    "saddle",
]

pytestmark = pytest.mark.e2e


def conversation(seed: int, words: int = 200) -> list[dict[str, str]]:
    """Return a conversation that shares nothing with another seed's, its system message included."""
    chooser = random.Random(seed)
    text = " ".join(chooser.choice(WORDS) for _ in range(words))
    return [
        {"role": "system", "content": f"{chooser.random()} You answer briefly."},
        {"role": "user", "content": f"{text}. What is this about?"},
    ]


def turn(platform: Any, messages: list[dict[str, str]], max_tokens: int = 20) -> tuple[Any, list[int]]:
    """Let the base model answer; return its reply and the tokens computed, the answer's last one not among them."""
    prompt = platform.prompt(messages)
    reply = platform.chat(BASE, messages, max_tokens)
    answer = platform.tokenizer.encode(reply.text, add_special_tokens=False)
    messages.append({"role": "assistant", "content": reply.text})
    return reply, [*prompt, *answer[:-1]]


def test_intrinsics_and_the_next_turn_reuse_the_conversation_where_it_is(platform: Any) -> None:
    messages = conversation(1)
    first, computed = turn(platform, messages)
    assert first.cached_tokens == 0
    for adapter in INTRINSICS:
        platform.settle()
        prompt = platform.prompt(messages, adapter)
        judged = platform.chat(adapter, messages)
        assert judged.replica == first.replica, judged.reason
        assert judged.policy == "expected-ttft"
        assert judged.prompt_tokens == len(prompt)
        reusable = platform.reusable(prompt, computed, adapter)
        assert reusable >= 200
        assert judged.cached_tokens >= reusable
    platform.settle()
    messages.append({"role": "user", "content": "And what else?"})
    prompt = platform.prompt(messages)
    second, _ = turn(platform, messages)
    assert second.replica == first.replica
    assert second.cached_tokens >= platform.reusable(prompt, computed, None)


@pytest.mark.parametrize("is_warm", [True, False])
def test_five_intrinsics_at_once_prefill_a_conversation_at_most_once_and_five_tails(
    platform: Any, is_warm: bool
) -> None:
    messages = conversation(40 + is_warm, words=400)
    answered = None
    if is_warm:
        answered, _ = turn(platform, messages)
        platform.settle()
    names = [*INTRINSICS, *INTRINSICS][:5]
    found = platform.http.post("/v1/intrinsics", json={"messages": messages, "intrinsics": names}).json()["results"]
    assert [one["status"] for one in found] == ["ok"] * 5, found
    usages = [one["usage"] for one in found]
    prefilled = sorted(usage["prompt_tokens"] - usage["cached_tokens"] for usage in usages)
    # A tail is an invocation and the end of a block.
    assert max(prefilled if is_warm else prefilled[:-1]) <= BLOCK + 16, prefilled
    if answered is not None:
        assert {one["replica"] for one in found} == {answered.replica}
    assert found[0]["value"] in range(10)
    assert sum(found[1]["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert 0 <= found[2]["value"]["hallucination_likelihood"] <= 1


def test_a_plain_lora_gets_no_base_block_but_its_own(platform: Any) -> None:
    messages = conversation(2)
    turn(platform, messages)
    platform.settle()
    ids = platform.prompt(messages, "safety")
    assert platform.complete("safety", ids).cached_tokens >= 200
    platform.settle()
    first = platform.complete("safety-lora", ids)
    assert first.cached_tokens == 0
    platform.settle()
    again = platform.complete("safety-lora", ids)
    assert again.cached_tokens == (len(ids) - 1) // 32 * 32
    assert again.replica == first.replica


LONG_WORDS = 3500


def test_a_second_conversation_goes_to_the_other_replica_while_the_first_is_prefilled(platform: Any) -> None:
    platform.settle()

    def busy() -> bool:
        return any(one["load"]["queued_prefill_tokens"] for one in platform.replicas()["replicas"])

    with ThreadPoolExecutor(1) as pool:
        # Its prefill has to outlast the second call's way to its decision, on a fast machine too.
        long = pool.submit(turn, platform, conversation(3, words=LONG_WORDS))
        platform.wait_until(busy, 120, "the first conversation's prefill")
        second, _ = turn(platform, conversation(4))
        first, _ = long.result()
    assert second.replica != first.replica, (second.reason, first.reason, platform.replicas())


AT_ONCE, TAIL_TOKENS = 14, 1000
"""Fewer calls than a replica runs at once, so that none goes elsewhere for want of a place."""
CALLS = 3 * AT_ONCE


def test_a_saturated_holder_s_calls_spill_to_the_other(platform: Any) -> None:
    """How many calls saturate it depends on what each replica takes itself for, on a busy machine on its luck too."""
    messages = conversation(5)
    first, _ = turn(platform, messages)
    platform.settle()
    prefix = platform.prompt(messages, "safety")[:-4]
    chooser = random.Random(5)
    tails = [[chooser.randrange(100, 4000) for _ in range(TAIL_TOKENS)] for _ in range(CALLS)]
    has_spilled = threading.Event()

    def call(tail: list[int]) -> Any:
        if has_spilled.is_set():
            return None
        reply = platform.complete(BASE, prefix + tail)
        if reply.replica != first.replica:
            has_spilled.set()
        return reply

    with ThreadPoolExecutor(AT_ONCE) as pool:
        replies = [reply for reply in pool.map(call, tails) if reply is not None]
    by_replica = {reply.replica for reply in replies}
    assert first.replica in by_replica
    assert len(by_replica) == 2, ([reply.reason for reply in replies], platform.replicas())
    spilled = [reply.reason for reply in replies if reply.replica != first.replica]
    assert any("holds" in reason and ("queued" in reason or "later" in reason) for reason in spilled), spilled


def test_intrinsics_at_once_all_answer_and_all_reuse(platform: Any) -> None:
    messages = conversation(6)
    first, computed = turn(platform, messages)
    platform.settle()
    with ThreadPoolExecutor(3) as pool:
        replies = list(pool.map(lambda adapter: platform.chat(adapter, messages), INTRINSICS))
    for adapter, reply in zip(INTRINSICS, replies, strict=True):
        prompt = platform.prompt(messages, adapter)
        assert reply.replica == first.replica, reply.reason
        assert reply.cached_tokens >= platform.reusable(prompt, computed, adapter)


def test_answers_are_those_of_one_engine_alone(platform: Any, adapters_dir: Path, tmp_path: Path) -> None:
    """Whatever was cached, wherever it ran and whatever else was in the batch: greedy, fp32, log-probabilities too.

    And those of PEFT, which knows no cache, no batch and no vLLM.
    """
    calls: list[tuple[str, list[int]]] = []
    for seed in (7, 8):
        messages = conversation(seed, words=90)
        turn(platform, messages)
        base = platform.prompt(messages)
        for adapter in INTRINSICS:
            ids = platform.prompt(messages, adapter)
            calls += [(adapter, ids), (f"{adapter}-lora", ids), (BASE, base)]
    with ThreadPoolExecutor(6) as pool:
        replies = list(pool.map(lambda call: platform.complete(*call, max_tokens=12), calls))
    assert sum(reply.cached_tokens > 0 for reply in replies) >= len(INTRINSICS)
    request = {"model": str(platform.model_path), "base": BASE, "adapters": str(adapters_dir), "calls": calls}
    (tmp_path / "calls.json").write_text(json.dumps(request))
    script = Path(__file__).parents[1] / "support" / "one_engine.py"
    subprocess.run(
        [sys.executable, str(script), str(tmp_path / "calls.json"), str(tmp_path / "answers.json")],
        check=True,
        timeout=400,
    )
    expected = json.loads((tmp_path / "answers.json").read_text())
    for (model, _), reply, alone in zip(calls, replies, expected, strict=True):
        assert reply.text == alone["text"], model
        assert reply.logprobs == pytest.approx(alone["logprobs"], abs=1e-4), model
    for (model, _), reply, reference in zip(
        calls, replies, peft_answers(platform.model_path, adapters_dir, calls, BASE, 12), strict=True
    ):
        assert reply.logprobs == pytest.approx(reference["logprobs"], abs=1e-4), model
        assert reply.text == platform.tokenizer.decode(reference["tokens"], skip_special_tokens=True), model
    texts = {model: reply.text for (model, _), reply in zip(calls, replies, strict=True)}
    assert len({texts[adapter] for adapter in (BASE, *INTRINSICS)}) > 1, "adapters without effect prove nothing"


@pytest.mark.untimed
@pytest.mark.timeout(900)
def test_without_the_directory_the_conversation_is_computed_twice(start: Callable[..., Any]) -> None:
    """The control: the same calls on such a platform in turns, whatever anyone holds."""
    with start("--policy", "round-robin", own_state=True) as blind:
        messages = conversation(1)
        first, _ = turn(blind, messages)
        replies = []
        for adapter in INTRINSICS:
            replies.append(blind.chat(adapter, messages))
    assert {reply.policy for reply in replies} == {"round-robin"}
    elsewhere = [reply for reply in replies if reply.replica != first.replica]
    assert elsewhere, "round robin has to leave the holder"
    assert elsewhere[0].cached_tokens == 0
