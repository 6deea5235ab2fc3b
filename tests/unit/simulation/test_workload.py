"""The keys that trace ids become, who shares what, and which evaluators follow an answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloraserve.errors import SettingsError
from aloraserve.simulation.trace import TraceRow
from aloraserve.simulation.workload import Workload, WorkloadSettings


def workload(*rows: TraceRow, **settings: object) -> Workload:
    return Workload(rows, WorkloadSettings(**settings))  # type: ignore[arg-type]


def shared(one: list[bytes], other: list[bytes]) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def test_an_id_becomes_as_many_keys_as_it_has_blocks() -> None:
    for block in (16, 64, 512):
        base = next(workload(TraceRow(0, 1024, 1, (0, 1)), block_tokens=block).base_calls())
        assert len(base.keys) == 1024 // block
        assert len(set(base.keys)) == len(base.keys)


def test_a_part_of_a_block_has_no_key() -> None:
    base = next(workload(TraceRow(0, 1000, 1, (0, 1)), block_tokens=64).base_calls())
    assert len(base.keys) == 1000 // 64


@given(
    one=st.lists(st.integers(0, 2), min_size=1, max_size=5), other=st.lists(st.integers(0, 2), min_size=1, max_size=5)
)
def test_equal_beginnings_have_equal_keys_and_nothing_else_does(one: list[int], other: list[int]) -> None:
    rows = [TraceRow(0, 512 * len(ids), 1, tuple(ids)) for ids in (one, other)]
    keys = [call.keys for call in workload(*rows, block_tokens=128).base_calls()]
    same = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    assert shared(*keys) == same * 4
    assert not set(keys[0][same * 4 :]) & set(keys[1][same * 4 :])


def test_evaluators_share_what_their_kind_may_share() -> None:
    calls = workload(TraceRow(0, 1000, 200, (0, 1)), block_tokens=16, evaluators=3, adapters=5)
    base = next(calls.base_calls())
    conversation = base.keys + calls.answer_keys(base)
    evaluations = calls.evaluations(base, 7.0)
    assert sorted(one.kind for one in evaluations) == ["alora", "alora", "lora"]
    assert {one.arrival_s for one in evaluations} == {7.0}
    for one in evaluations:
        assert one.prompt_tokens == 1000 + 200 + 8
        assert len(one.keys) == len(one.content_keys) == len(one.salted_keys) == one.prompt_tokens // 16
        assert shared(one.content_keys, conversation) == len(conversation)
        assert shared(one.salted_keys, conversation) == 0
        assert shared(one.keys, conversation) == (0 if one.kind == "lora" else len(conversation))
    first, second = (one for one in evaluations if one.kind == "alora")
    assert first.adapter != second.adapter
    # The activation point is 1200, a block's boundary; the invocation fills no further one.
    assert shared(first.keys, second.keys) == 1200 // 16


def test_blocks_with_the_invocation_are_the_adapters() -> None:
    calls = workload(
        TraceRow(0, 1000, 204, (0, 1)), block_tokens=16, evaluators=2, lora_share=0.0, invocation_tokens=16
    )
    base = next(calls.base_calls())
    first, second = calls.evaluations(base, 0.0)
    assert len(first.keys) == 76
    assert shared(first.keys, second.keys) == 1204 // 16
    assert shared(first.keys, first.content_keys) == 1204 // 16


def test_a_base_call_is_the_same_to_whoever_salts() -> None:
    base = next(workload(TraceRow(0, 1000, 204, (0, 1))).base_calls())
    assert base.keys == base.content_keys == base.salted_keys


def test_forgotten_keys_come_back() -> None:
    base = next(workload(TraceRow(0, 1000, 204, (0, 1))).base_calls())
    keys = base.keys
    base.forget_keys()
    assert base.keys == keys


def test_a_conversation_has_the_same_evaluators_after_each_answer() -> None:
    rows = [TraceRow(float(n), 1024, 10, (0, 1), session) for n, session in enumerate(("a", "b", "a"))]
    calls = workload(*rows, evaluators=4, lora_share=0.5, adapters=50)
    named = [[one.adapter for one in calls.evaluations(base, 0.0)] for base in calls.base_calls()]
    assert named[0] == named[2] != named[1]
    assert all(len(set(one)) == 4 for one in named)


def test_a_share_that_gives_no_whole_number_is_met_over_conversations() -> None:
    rows = [TraceRow(float(n), 1024, 10, (0, 1), f"s{n}") for n in range(400)]
    calls = workload(*rows, evaluators=1, lora_share=0.25)
    kinds = [calls.evaluations(base, 0.0)[0].kind for base in calls.base_calls()]
    assert 0.18 < kinds.count("lora") / 400 < 0.32


def test_the_seed_changes_keys_and_sessions() -> None:
    row = TraceRow(0, 1024, 10, (0, 1), "a")
    one, other = (next(workload(row, seed=seed).base_calls()) for seed in (0, 1))
    assert one.session != other.session
    assert not set(one.keys) & set(other.keys)


def test_the_rate_scale_compresses_time() -> None:
    assert next(workload(TraceRow(30.0, 512, 1, (0,)), rate_scale=3.0).base_calls()).arrival_s == 10.0


@pytest.mark.parametrize(
    ("name", "value"),
    [("evaluators", -1), ("lora_share", 1.1), ("adapters", 0), ("block_tokens", 48), ("rate_scale", 0.0)],
)
def test_wrong_settings_are_named(name: str, value: float) -> None:
    with pytest.raises(SettingsError, match=f"{name} is {value}"):
        WorkloadSettings(**{name: value})  # type: ignore[arg-type]
