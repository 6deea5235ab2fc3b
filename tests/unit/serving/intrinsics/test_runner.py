"""Intrinsics over one conversation: one prefill of what they share, a result each, failures of their own."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from support.intrinsic_path import DiedError, Engine, RequestPath, chunk, conversation, origin

from aloraserve.blocks import activation_point
from aloraserve.errors import (
    DeadlineError,
    InvalidRequestError,
    OverloadedError,
    ReplicaLostError,
    UnknownModelError,
    UnusableAnswerError,
)
from aloraserve.serving.engine_messages import EngineRefusal
from aloraserve.serving.intrinsics.outcome import IntrinsicOutcome
from aloraserve.tenants import Caller
from aloraserve.wire.intrinsic_items import GuardItem, IntrinsicItem

THREE = ("answerable", "safety", "uncertainty")


def items(*names: str) -> list[IntrinsicItem]:
    return [IntrinsicItem(name=name) for name in names]


async def run(path: RequestPath, *names: str, timeout_s: float = 30) -> list[IntrinsicOutcome]:
    return await path.runner.run(conversation(), items(*names), origin(), timeout_s=timeout_s)


async def test_each_intrinsic_has_a_typed_result_with_its_facts_in_the_request_s_order(path: RequestPath) -> None:
    answerable, safety, uncertainty = await run(path, *THREE)
    assert [one.value.value for one in (answerable, safety, uncertainty) if one.value] == [True, False, 7]
    assert uncertainty.value is not None
    assert uncertainty.value.probability == pytest.approx(0.764, abs=0.001)
    assert safety.facts is not None
    assert (safety.facts.text, safety.facts.cached_tokens, safety.facts.completion_tokens) == ("N", 8, 1)
    assert (safety.name, safety.call_id, safety.facts.adapter[:6]) == ("safety", "r1-2", "safety")
    assert 0 < safety.facts.ttft_s <= safety.total_s


async def test_calls_ask_for_their_form_and_for_log_probabilities(path: RequestPath, engine: Engine) -> None:
    await run(path, "uncertainty")
    (call,) = engine.calls
    assert call.sampling.structured is not None
    assert (call.sampling.structured.kind, call.sampling.structured.choices) == ("choice", tuple("0123456789"))
    assert (call.sampling.temperature, call.sampling.logprobs, call.sampling.max_tokens) == (0.0, 10, 2)


async def test_with_a_cold_prefix_one_call_goes_first_and_the_others_follow(path: RequestPath, engine: Engine) -> None:
    engine.gates["answerable"] = gate = asyncio.Event()
    running = asyncio.create_task(run(path, *THREE))
    await engine.has(1)
    for _ in range(100):
        await asyncio.sleep(0)
    assert engine.names == ["answerable"]
    gate.set()
    await running
    assert engine.names[1:] == ["safety", "uncertainty"]
    assert len(set(engine.replicas)) == 1, "the claim of the first draws the others"


@pytest.mark.parametrize("replica", ["a", "b"])
async def test_with_a_warm_prefix_all_go_at_once_to_who_holds_it(
    path: RequestPath, engine: Engine, replica: str
) -> None:
    await path.warm(replica)
    engine.gates = {name: asyncio.Event() for name in THREE}
    running = asyncio.create_task(run(path, *THREE))
    await engine.has(3)
    assert engine.replicas == [replica] * 3
    for gate in engine.gates.values():
        gate.set()
    await running


async def test_a_first_call_that_fails_leaves_the_prefix_to_the_next(path: RequestPath, engine: Engine) -> None:
    engine.answers["answerable"] = EngineRefusal("not now")
    engine.gates["safety"] = gate = asyncio.Event()
    running = asyncio.create_task(run(path, *THREE))
    await engine.has(2)
    for _ in range(100):
        await asyncio.sleep(0)
    assert engine.names == ["answerable", "safety"]
    gate.set()
    failed, *others = await running
    assert isinstance(failed.error, InvalidRequestError)
    assert [one.error for one in others] == [None, None]


async def test_a_plain_lora_shares_nothing_and_waits_for_nobody(path: RequestPath, engine: Engine) -> None:
    engine.gates["answerable"] = gate = asyncio.Event()
    running = asyncio.create_task(run(path, "answerable", "twin-lora", "safety"))
    await engine.has(2)
    assert engine.names == ["answerable", "twin-lora"]
    gate.set()
    await running


@pytest.mark.parametrize(
    ("name", "answer", "error"),
    [
        ("nobody", None, UnknownModelError),
        ("words", None, InvalidRequestError),
        ("judge", None, InvalidRequestError),
        ("safety", chunk("perhaps"), UnusableAnswerError),
        ("safety", ValueError, ValueError),
    ],
)
async def test_a_failure_is_its_own_item_s_alone(
    path: RequestPath, engine: Engine, name: str, answer: Any, error: type[Exception]
) -> None:
    if answer is not None:
        engine.answers[name] = answer
    first, failed, last = await run(path, "answerable", name, "uncertainty")
    assert (first.error, last.error) == (None, None)
    assert type(failed.error) is error
    assert failed.value is None


async def test_a_lost_replica_fails_the_item_after_its_attempts(path: RequestPath, engine: Engine) -> None:
    engine.answers["safety"] = DiedError
    first, failed = await run(path, "uncertainty", "safety")
    assert first.error is None
    assert isinstance(failed.error, ReplicaLostError)
    assert engine.names.count("safety") == 3


async def test_an_unusable_answer_keeps_its_raw_text_and_facts(path: RequestPath, engine: Engine) -> None:
    engine.answers["safety"] = chunk("perhaps")
    (failed,) = await run(path, "safety")
    assert failed.facts is not None
    assert failed.facts.text == "perhaps"


async def test_what_is_late_is_an_error_and_is_cancelled(path: RequestPath, engine: Engine) -> None:
    await path.warm("a")
    engine.gates["safety"] = asyncio.Event()
    first, late = await run(path, "uncertainty", "safety", timeout_s=0.3)
    assert first.error is None
    assert isinstance(late.error, DeadlineError)
    assert engine.cancelled == {"safety"}


async def test_a_client_that_leaves_ends_all_calls(path: RequestPath, engine: Engine) -> None:
    await path.warm("a")
    engine.gates = {name: asyncio.Event() for name in THREE}
    running = asyncio.create_task(run(path, *THREE))
    await engine.has(3)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert engine.cancelled == set(THREE)
    assert path.slots == 100


async def test_each_call_takes_a_slot_and_lacks_it_alone(path: RequestPath, engine: Engine) -> None:
    await path.warm("a")
    path.slots = 2
    engine.gates = {name: asyncio.Event() for name in THREE}
    running = asyncio.create_task(run(path, *THREE))
    await engine.has(2)
    for gate in engine.gates.values():
        gate.set()
    found = await running
    assert sorted(type(one.error).__name__ for one in found) == ["NoneType", "NoneType", OverloadedError.__name__]


async def test_fields_fill_the_instruction_and_are_text_alone(path: RequestPath, engine: Engine) -> None:
    item = IntrinsicItem(name="judge", fields={"criteria": "{criteria} & {x.__class__}"})
    (found,) = await path.runner.run(conversation(), [item], origin(), timeout_s=30)
    assert found.value is not None
    assert found.value.value == "good"
    prompt = "".join(chr(token) for token in engine.calls[0].token_ids[1:])
    assert "u:Is it {criteria} & {x.__class__}?\n" in prompt


async def test_an_invocation_in_the_instruction_acts_there(path: RequestPath, engine: Engine) -> None:
    item = IntrinsicItem(name="requirement", fields={"criteria": "short"})
    (found,) = await path.runner.run(conversation(), [item], origin(), timeout_s=30)
    assert found.error is None
    prompt = engine.calls[0].token_ids
    invocation = [ord(character) for character in "<r>"]
    assert activation_point(prompt, invocation) == "".join(map(chr, prompt)).index("<r> It is short.")


async def test_a_field_never_moves_an_activation(path: RequestPath, engine: Engine) -> None:
    """This tokenizer has no other tokens for the text: it is refused; the others write it with others."""
    item = IntrinsicItem(name="requirement", fields={"criteria": "a <r> b"})
    (found,) = await path.runner.run(conversation(), [item], origin(), timeout_s=30)
    assert isinstance(found.error, InvalidRequestError)
    assert "holds the adapter's invocation" in found.error.message
    assert engine.calls == []


async def test_an_unknown_field_is_refused_by_name(path: RequestPath) -> None:
    item = IntrinsicItem(name="safety", fields={"criteria": "short"})
    (found,) = await path.runner.run(conversation(), [item], origin(), timeout_s=30)
    assert isinstance(found.error, InvalidRequestError)
    assert "no field 'criteria'; it has none" in found.error.message


@pytest.mark.parametrize(("threshold", "is_refusal"), [(None, False), (0.05, True)])
async def test_a_guard_refuses_at_its_own_threshold_or_the_request_s(
    path: RequestPath, threshold: float | None, is_refusal: bool
) -> None:
    (verdict,) = await path.runner.guard(
        conversation(), [GuardItem(name="safety", threshold=threshold)], origin(), timeout_s=30
    )
    assert verdict.probability == pytest.approx(0.091, abs=0.001)
    assert verdict.is_refusal is is_refusal


async def test_a_guard_that_cannot_say_lets_nothing_pass(path: RequestPath, engine: Engine) -> None:
    engine.answers["safety"] = chunk("perhaps")
    with pytest.raises(UnusableAnswerError):
        await path.runner.guard(conversation(), [GuardItem(name="safety")], origin(), timeout_s=30)


async def test_an_intrinsic_without_a_probability_is_no_guard(path: RequestPath) -> None:
    guard = GuardItem(name="judge", fields={"criteria": "short"})
    with pytest.raises(InvalidRequestError, match="gives no probability"):
        await path.runner.guard(conversation(), [guard], origin(), timeout_s=30)


async def test_the_base_model_is_not_an_intrinsic(path: RequestPath) -> None:
    (found,) = await run(path, "base")
    assert isinstance(found.error, InvalidRequestError)
    assert "'base' is not an intrinsic" in found.error.message


async def test_a_version_is_resolved_once_and_for_the_caller(
    path: RequestPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None, str]] = []
    original = path.prompts._resolve

    def resolve(name: str, *, tenant: str | None = None, key: str = "") -> Any:
        asked.append((name, tenant, key))
        return original(name, tenant=tenant, key=key)

    monkeypatch.setattr(path.prompts, "_resolve", resolve)
    caller = Caller("acme", cache_salt="tenant:acme")
    await path.runner.run(conversation(), items("safety"), replace(origin(), caller=caller), timeout_s=30)
    ((name, tenant, key),) = asked
    assert (name, tenant, key.startswith("what is left")) == ("safety", "acme", True)
