"""Fits the phases of a load test to a time: fewer samples first, then shorter prompts, then fewer phases.

The estimate is of phases that play one call at a time ("sync"). It counts what each arm has to prefill (a plain LoRA
and a platform without a router everything, the others a conversation's end) and what is generated.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from loadtests.arms import ARMS
from loadtests.pace import Pace
from loadtests.pipelines import SHARED
from loadtests.plan import LoadPlan, Phase

TAIL_TOKENS = 32
"""About what a call prefills that finds its conversation cached."""
TURN_TOKENS = 130
"""About what a turn adds: an answer, the user's words, the chat template."""
WARM_UP_TOKENS = (300, 900)
CALL_S = 0.05
"""Of each call outside the engine."""
MIN_COUNT = 2
"""Samples below which prompts are shortened first."""
MIN_LENGTH = 500
QUICK_MINUTES = 10.0


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """How long a load test may take.

    Args:
        minutes: from ``started_at`` to the report.
        started_at: on ``time.perf_counter``'s clock.
    """

    minutes: float
    started_at: float = field(default_factory=time.perf_counter)

    def fit(self, plan: LoadPlan, pace: Pace, further_starts: int) -> tuple[LoadPlan, str]:
        """Return the plan that is played, and in words what was measured and decided.

        Args:
            plan: what would be played.
            pace: of the first platform, which has just started.
            further_starts: platforms that are started later; each is taken to start like the first.
        """
        start_s = time.perf_counter() - self.started_at
        around_s = start_s * (1 + further_starts)
        fitted = fit(plan, pace, 60 * self.minutes - around_s)
        whole, found = ((around_s + estimate_s(phases, pace)) / 60 for phases in (plan, fitted))
        said = f"{pace}. The whole plan takes about {whole:.1f} min"
        if fitted != plan:
            said += f"; to fit {self.minutes:g} min, this is played in about {found:.1f}: {describe(fitted.phases)}"
        return fitted, said


def time_limit(profile: str, minutes: float | None, count: int | None) -> TimeLimit | None:
    """Return how long a load test may take, beginning now; None for as long as its plan takes.

    Args:
        profile: that is played.
        minutes: that are asked for; without, ``QUICK_MINUTES``.
        count: of samples that are asked for: whoever does, and names no time, gets them.

    Raises:
        ValueError: minutes are given for a profile that is not fitted.
    """
    if profile != "quick" and minutes is not None:
        raise ValueError(f"minutes fits the profile quick to a time; {profile} is played as it is")
    if profile != "quick" or (minutes is None and count is not None):
        return None
    return TimeLimit(QUICK_MINUTES if minutes is None else minutes)


def estimate_s(plan: LoadPlan, pace: Pace) -> float:
    """Return about how long a plan's "sync" phases take, without the start of platforms."""
    parts = [part for phase in plan.phases for part in (phase.routed, phase.unrouted) if part]
    lengths = [(part, length) for part in parts for length in part.lengths]
    warm_up_s = sum(_warm_up_s(plan, part, pace) for part in parts)
    return warm_up_s + sum(part.count * _sample_s(plan, part, length, pace) for part, length in lengths)


def fit(plan: LoadPlan, pace: Pace, seconds: float) -> LoadPlan:
    """Return the plan, or the largest of those that follow from it and take no longer.

    Each step takes a sample off every length; from ``MIN_COUNT`` on it halves the length that takes longest, and drops
    one that would be below ``MIN_LENGTH``. The smallest plan is returned where even that takes longer.
    """
    for smaller in _ever_smaller(plan, pace):
        plan = smaller
        if estimate_s(plan, pace) <= seconds:
            break
    return plan


def describe(phases: Sequence[Phase]) -> str:
    """Return what phases play, in a line."""
    return "; ".join(
        f"{phase.name}: {phase.count} x {', '.join(f'{length:,}' for length in phase.lengths)} tokens"
        for phase in phases
    )


def _ever_smaller(plan: LoadPlan, pace: Pace) -> Iterator[LoadPlan]:
    found: LoadPlan | None = plan
    while found is not None:
        yield found
        found = _smaller(found, pace)


def _smaller(plan: LoadPlan, pace: Pace) -> LoadPlan | None:
    most = max(phase.count for phase in plan.phases)
    if most > MIN_COUNT:
        return _fewer(plan, most - 1)
    shortened = _shortened(plan, pace)
    if shortened.phases:
        return shortened
    return _fewer(plan, most - 1) if most > 1 else None


def _fewer(plan: LoadPlan, count: int) -> LoadPlan:
    return replace(plan, phases=tuple(replace(phase, count=min(phase.count, count)) for phase in plan.phases))


def _shortened(plan: LoadPlan, pace: Pace) -> LoadPlan:
    """Return the plan with half of the length that takes longest; without phases if it was the last one."""
    costs = {
        (phase.name, length): _length_s(plan, phase, length, pace) for phase in plan.phases for length in phase.lengths
    }
    name, longest = max(costs, key=lambda place: costs[place])
    phases = (_shorter(phase, longest) if phase.name == name else phase for phase in plan.phases)
    return replace(plan, phases=tuple(phase for phase in phases if phase is not None))


def _shorter(phase: Phase, length: int) -> Phase | None:
    """Return the phase with half of a length in its place, without it if that is too short; None if none is left."""
    halved = (other // 2 if other == length else other for other in phase.lengths)
    kept = tuple(dict.fromkeys(other for other in halved if other >= MIN_LENGTH))
    return replace(phase, lengths=kept) if kept else None


def _length_s(plan: LoadPlan, phase: Phase, length: int, pace: Pace) -> float:
    parts = (part for part in (phase.routed, phase.unrouted) if part)
    return sum(part.count * _sample_s(plan, part, length, pace) for part in parts)


def _warm_up_s(plan: LoadPlan, phase: Phase, pace: Pace) -> float:
    calls = len(plan.intrinsics) * len(phase.arms)
    return sum(map(pace.prefill_s, WARM_UP_TOKENS)) + calls * (pace.prefill_s(TAIL_TOKENS) + 2 * pace.token_s + CALL_S)


def _sample_s(plan: LoadPlan, phase: Phase, length: int, pace: Pace) -> float:
    """Return what one sample of each pipeline takes in every arm of the phase."""
    return sum(
        _shared_s(plan, phase, length, pace)
        if pipeline in SHARED
        else sum(_single_s(plan, pipeline, arm, length, pace) for arm in phase.arms)
        for pipeline in phase.pipelines
    )


def _shared_s(plan: LoadPlan, phase: Phase, length: int, pace: Pace) -> float:
    """All arms judge one conversation, turn by turn."""
    total, before = 0.0, 0
    for turn in range(phase.turns):
        tokens = length + turn * TURN_TOKENS
        new_s = pace.prefill_s(tokens) - (pace.prefill_s(before) if before else 0.0)
        total += new_s + _answer_s(plan.answer_tokens, pace)
        for arm in phase.arms:
            total += new_s if _prefills_all(arm) else pace.prefill_s(TAIL_TOKENS)
            total += _answer_s(plan.evaluation_tokens, pace)
        before = tokens
    return total


def _single_s(plan: LoadPlan, pipeline: str, arm: str, length: int, pace: Pace) -> float:
    """One arm has a conversation of its own."""
    whole_s, tail_s = pace.prefill_s(length), pace.prefill_s(TAIL_TOKENS)
    again_s = whole_s if _prefills_all(arm) else tail_s
    answer_s, evaluation_s = (_answer_s(tokens, pace) for tokens in (plan.answer_tokens, plan.evaluation_tokens))
    if pipeline == "adapter-base":
        return whole_s + evaluation_s + again_s + answer_s
    judges = min(5, len(plan.intrinsics)) if pipeline == "multi-adapter" else 1
    # Judges at once share the engines' steps.
    return whole_s + answer_s + judges * (again_s + CALL_S) + evaluation_s + tail_s + answer_s


def _prefills_all(arm: str) -> bool:
    return arm == "lora" or not ARMS[arm].is_routed


def _answer_s(tokens: int, pace: Pace) -> float:
    return CALL_S + tokens * pace.token_s
