"""What vLLM's scheduler is made to report of a step, from its own outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from aloraserve.engine_model.step_stats import StepStats, squares
from aloraserve_services.engine.vllm import reporting_scheduler
from aloraserve_services.engine.vllm.reporting_scheduler import MAX_UNDER_WAY, _Reports, attached_step, step_of
from aloraserve_services.engine.vllm.step_observer import StepObserver

ACTIVATION = "vllm_alora.activation"


def request(adapter: bool = False, activation: int | None = None) -> Any:
    extra = {} if activation is None else {ACTIVATION: activation}
    return SimpleNamespace(
        lora_request=object() if adapter else None, sampling_params=SimpleNamespace(extra_args=extra)
    )


def scheduled(
    tokens: Mapping[str, int],
    new: Mapping[str, int] | None = None,
    cached: Sequence[tuple[str, int, int]] = (),
    speculated: Mapping[str, Sequence[int]] | None = None,
) -> Any:
    """Return a ``SchedulerOutput``: tokens by request, starts of new requests, and starts and answers of others."""
    names, starts, generated = zip(*cached, strict=True) if cached else ((), (), ())
    return SimpleNamespace(
        num_scheduled_tokens=dict(tokens),
        total_num_scheduled_tokens=sum(tokens.values()),
        scheduled_new_reqs=[
            SimpleNamespace(req_id=name, num_computed_tokens=start) for name, start in (new or {}).items()
        ],
        scheduled_cached_reqs=SimpleNamespace(
            req_ids=list(names), num_computed_tokens=list(starts), num_output_tokens=list(generated)
        ),
        scheduled_spec_decode_tokens=dict(speculated or {}),
    )


def test_answers_alone_are_counted_with_their_contexts() -> None:
    step = scheduled({"a": 1, "b": 1}, cached=[("a", 100, 5), ("b", 50, 1)])
    found = step_of(step, {"a": request(adapter=True), "b": request()}, 0.5)
    assert found == StepStats(0.5, answers=2, context_tokens=152, adapter_answers=1)


def test_prompts_and_answers_side_by_side_are_told_apart() -> None:
    step = scheduled({"new": 512, "more": 300, "a": 1}, new={"new": 64}, cached=[("more", 2048, 0), ("a", 100, 5)])
    found = step_of(step, {}, 0.5)
    assert found == StepStats(0.5, 812, squares(64, 576) + squares(2048, 2348), 0, 1, 101, 0)


def test_a_prompt_s_last_single_token_is_no_answer() -> None:
    found = step_of(scheduled({"a": 1}, cached=[("a", 2048, 0)]), {}, 0.5)
    assert found == StepStats(0.5, 1, squares(2048, 2049))


def test_a_preempted_answer_is_computed_again_like_a_prompt() -> None:
    found = step_of(scheduled({"a": 120}, cached=[("a", 32, 40)]), {}, 0.5)
    assert found == StepStats(0.5, 120, squares(32, 152))


def test_speculated_tokens_are_an_answer_s() -> None:
    found = step_of(scheduled({"a": 4}, cached=[("a", 100, 7)], speculated={"a": [1, 2, 3]}), {}, 0.5)
    assert found == StepStats(0.5, answers=1, context_tokens=104)


@pytest.mark.parametrize(("activation", "adapted"), [(None, 64), (0, 64), (150, 14), (100, 64), (164, 0)])
def test_an_adapter_s_tokens_are_those_from_its_activation_on(activation: int | None, adapted: int) -> None:
    found = step_of(scheduled({"a": 64}, new={"a": 100}), {"a": request(adapter=True, activation=activation)}, 0.5)
    assert found is not None
    assert found.adapter_tokens == adapted


def test_a_step_that_computes_nothing_is_none() -> None:
    assert step_of(scheduled({}), {}, 0.5) is None


class Scheduler:
    """Of vLLM's: what is replaced."""

    def __init__(self, vllm_config: Any) -> None:
        self.requests: dict[str, Any] = {}

    def schedule(self, throttle: bool = False) -> Any:
        return scheduled({"a": 8}, new={"a": 0})

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> dict[int, Any]:
        return {0: SimpleNamespace(scheduler_stats=SimpleNamespace(kv_cache_usage=0.5, perf_stats=None))}


class Reporting(_Reports, Scheduler):
    """As the platform makes one."""

    def __init__(self, slots: int = 2) -> None:
        super().__init__(vllm_config=SimpleNamespace(lora_config=SimpleNamespace(max_loras=slots)))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(now_s=100.0)
    monkeypatch.setattr(reporting_scheduler, "time", SimpleNamespace(monotonic=lambda: now.now_s))
    return now


def seconds(outputs: dict[int, Any]) -> float:
    found = attached_step(outputs[0].scheduler_stats)
    assert found is not None
    return found.seconds


def test_a_step_lasts_from_when_it_was_scheduled(clock: SimpleNamespace) -> None:
    scheduler = Reporting()
    for _ in range(2):
        step = scheduler.schedule()
        clock.now_s += 0.25
        assert seconds(scheduler.update_from_output(step, None)) == pytest.approx(0.25)
        clock.now_s += 9.0


def test_a_step_scheduled_while_another_runs_begins_when_that_ends(clock: SimpleNamespace) -> None:
    scheduler = Reporting()
    first = scheduler.schedule()
    clock.now_s += 0.1
    second = scheduler.schedule()
    clock.now_s += 0.3
    assert seconds(scheduler.update_from_output(first, None)) == pytest.approx(0.4)
    clock.now_s += 0.2
    assert seconds(scheduler.update_from_output(second, None)) == pytest.approx(0.2)


def test_a_step_that_loads_an_adapter_into_a_slot_says_nothing_of_its_time() -> None:
    scheduler = Reporting(slots=2)
    reported = []
    for number in (1, 2, 1, 2, 3, 2, 1, None, 1):
        adapter = None if number is None else SimpleNamespace(lora_int_id=number)
        scheduler.requests["a"] = SimpleNamespace(
            lora_request=adapter, sampling_params=SimpleNamespace(extra_args=None)
        )
        outputs = scheduler.update_from_output(scheduler.schedule(), None)
        reported.append(attached_step(outputs[0].scheduler_stats) is not None)
    assert reported == [False, False, True, True, False, True, False, True, True]


def test_steps_that_never_end_are_forgotten(clock: SimpleNamespace) -> None:
    scheduler = Reporting()
    kept = [scheduler.schedule() for _ in range(3 * MAX_UNDER_WAY)]
    assert len(scheduler._scheduled_s) <= MAX_UNDER_WAY < len(kept)


def test_the_observer_hands_on_each_step_and_keeps_the_cache_s_use() -> None:
    observer, found = StepObserver(), list[StepStats]()
    observer.observe = found.append
    scheduler = Reporting()
    stats = scheduler.update_from_output(scheduler.schedule(), None)[0].scheduler_stats
    observer.record(stats, None, mm_cache_stats=None, engine_idx=0)
    observer.record(None, None)
    observer.record(SimpleNamespace(kv_cache_usage=0.25, perf_stats=None), None)
    assert [step.prefill_tokens for step in found] == [8]
    assert observer.kv_usage == 0.25
