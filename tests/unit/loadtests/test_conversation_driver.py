"""Who is called with what, and what is noted of it."""

from __future__ import annotations

import pytest

from aloraserve.wire.answer_stream import CallFailedError, StreamedAnswer
from loadtests.conversation_driver import ConversationDriver, PhaseContext
from loadtests.pipelines import PLAYS, play
from loadtests.plan import LoadPlan, Phase
from loadtests.samples import Sample
from loadtests.texts import Message, TextSource
from loadtests.warm_up import NotServedError, warm_up


class Platform:
    """Answers every call, or fails those of one model."""

    def __init__(self, *served: str, fails: str = "") -> None:
        self.served = list(served)
        self.fails = fails
        self.calls: list[tuple[str, list[Message]]] = []

    def chat(self, model: str, messages: list[Message], max_tokens: int) -> StreamedAnswer:
        self.calls.append((model, messages))
        if model == self.fails:
            raise CallFailedError("answered 503")
        tokens = sum(len(message["content"].split()) for message in messages)
        return StreamedAnswer("well", 0.1, 0.3, 3, tokens, tokens // 2, "engine-0", prefill_s=0.04, saved_s=0.5)

    def models(self) -> list[str]:
        return self.served

    def close(self) -> None:
        """There is nothing to close."""


PLAN = LoadPlan((), intrinsics=("safety", "clarity"))
EVERYTHING = ("m", "safety", "safety-lora", "clarity", "clarity-lora")


def played(pipeline: str, arms: tuple[str, ...], platform: Platform) -> list[Sample]:
    samples: list[Sample] = []
    context = PhaseContext(PLAN, Phase("p", "sync", arms), TextSource(0), 1.0, "m", samples.append)
    play(ConversationDriver(context, platform, arms, pipeline, "c", 100), pipeline, PLAN, 2)
    return samples


def test_all_arms_judge_one_conversation_whose_base_calls_are_made_once() -> None:
    platform = Platform(*EVERYTHING)
    samples = played("base-adapter", ("lora", "alora", "base"), platform)
    assert [model for model, _ in platform.calls] == ["m", "safety-lora", "safety", "m"] * 2
    judged = [messages for _, messages in platform.calls[1:4]]
    assert judged[0] == judged[1] == judged[2]
    evaluations = [(sample.arm, sample.state) for sample in samples if sample.step == "evaluation"]
    assert evaluations == [(arm, state) for state in ("first", "returning") for arm in ("lora", "alora", "base")]
    assert {sample.arm for sample in samples if sample.step == "base"} == {"all"}
    judged_by_lora = samples[1]
    assert (judged_by_lora.ttft_s, judged_by_lora.e2e_s) == (0.1, 0.3)
    assert (judged_by_lora.itl_s, judged_by_lora.prefill_s, judged_by_lora.saved_s) == (pytest.approx(0.1), 0.04, 0.5)
    assert judged_by_lora.queue_s == pytest.approx(0.06)


@pytest.mark.parametrize("pipeline", list(PLAYS))
def test_every_pipeline_has_an_evaluation_and_a_whole(pipeline: str) -> None:
    platform = Platform(*EVERYTHING)
    samples = played(pipeline, ("alora",), platform)
    steps = [sample.step for sample in samples]
    assert steps[-1] == "whole"
    assert "evaluation" in steps
    assert ("after-adapter" in steps) == (pipeline != "base-adapter")
    called = {model for model, _ in platform.calls}
    assert called == ({"m", "safety", "clarity"} if pipeline == "multi-adapter" else {"m", "safety"})


def test_a_failed_call_is_noted_and_ends_the_pipeline() -> None:
    samples = played("base-adapter-base", ("lora",), Platform(*EVERYTHING, fails="safety-lora"))
    assert [(sample.step, sample.error) for sample in samples] == [
        ("base", ""),
        ("evaluation", "answered 503"),
        ("whole", ""),
    ]


def test_a_platform_that_lacks_an_adapter_is_refused_by_name() -> None:
    phase = Phase("p", "sync", ("lora",))
    with pytest.raises(NotServedError, match="'safety-lora'; served are m, safety"):
        warm_up(PLAN, phase, Platform("m", "safety"), lambda sample: None)
    context = warm_up(PLAN, phase, Platform(*EVERYTHING), lambda sample: None)
    assert (context.base, context.words_per_token) == ("m", 1.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"arms": ("best",)}, "arm is 'best'"),
        ({"pipelines": ("base",)}, "pipeline is 'base'"),
        ({"lengths": (5,)}, "length is 5; 64 to"),
        ({"count": 0}, "count is 0"),
        ({"users": 9999}, "users is 9999"),
        ({"mode": "poisson"}, "rate_per_s is 0"),
    ],
)
def test_a_phase_that_makes_no_sense_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Phase(**{"name": "p", "mode": "sync"} | given)  # type: ignore[arg-type]


def test_arms_that_need_no_router_are_played_apart() -> None:
    phase = Phase("p", "sync", ("lora", "alora-no-router"))
    assert phase.routed is not None
    assert phase.unrouted is not None
    assert (phase.routed.arms, phase.unrouted.arms) == (("lora",), ("alora-no-router",))
    assert Phase("p", "sync", ("lora",)).unrouted is None


@pytest.mark.parametrize(("count", "block", "gap"), [(3, 32, 12), (10, 32, 8), (10, 16, 8), (64, 64, 1)])
def test_variants_of_a_length_end_anywhere_within_a_block(count: int, block: int, gap: int) -> None:
    phase = Phase("p", "sync", count=count)
    ends = sorted(phase.more_tokens(number, 0) % block for number in range(count))
    gaps = [after - before for before, after in zip(ends, [*ends[1:], ends[0] + block], strict=True)]
    assert max(gaps) <= gap
    lengths = [phase.more_tokens(number, 0) for number in range(count)]
    assert min(lengths) >= -32
    assert max(lengths) <= 31
    assert [phase.more_tokens(number + count, 0) for number in range(count)] == lengths


def test_a_longer_variant_has_so_many_tokens_more() -> None:
    context = PhaseContext(PLAN, Phase("p", "sync", ("base",)), TextSource(0), 1.0, "m", lambda _: None)
    drivers = [
        ConversationDriver(context, Platform(), ("base",), "base-adapter", "c", 100, more=more) for more in (0, 7, -9)
    ]
    sizes = [len(driver.messages[1]["content"].split()) for driver in drivers]
    assert sizes == [sizes[0], sizes[0] + 7, sizes[0] - 9]
