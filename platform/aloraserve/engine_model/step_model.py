"""How long an engine's steps take, as a replica learned it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from aloraserve.engine_model.step_stats import StepStats, squares
from aloraserve.routing.prefill_model import PrefillModel


@dataclass(frozen=True, slots=True)
class StepModel:
    """Seconds of a step, the sum of these parts; none is negative.

    Args:
        fixed_s: of each step.
        prefill_fixed_s: more, if it computes prompts.
        answers_fixed_s: more, if it computes answers.
        adapter_fixed_s: more, if an adapter applies to prompt tokens.
        s_per_token: for each prompt token.
        s_per_square: for each of :attr:`~aloraserve.engine_model.step_stats.StepStats.prefill_squares`.
        s_per_adapter_token: more for each prompt token that an adapter applies to.
        s_per_answer: for each answer.
        s_per_context_token: for each token of the answers' contexts.
        s_per_adapter_answer: more for each answer that an adapter applies to.
    """

    fixed_s: float = 0.0
    prefill_fixed_s: float = 0.0
    answers_fixed_s: float = 0.0
    adapter_fixed_s: float = 0.0
    s_per_token: float = 0.0
    s_per_square: float = 0.0
    s_per_adapter_token: float = 0.0
    s_per_answer: float = 0.0
    s_per_context_token: float = 0.0
    s_per_adapter_answer: float = 0.0

    def seconds(self, step: StepStats) -> float:
        """Return how long a step of that content takes."""
        seconds = self.fixed_s
        if step.prefill_tokens:
            seconds += self.prefill_fixed_s + self.s_per_token * step.prefill_tokens
            seconds += self.s_per_square * step.prefill_squares
        if step.adapter_tokens:
            seconds += self.adapter_fixed_s + self.s_per_adapter_token * step.adapter_tokens
        if step.answers:
            seconds += self.answers_fixed_s + self.s_per_answer * step.answers
            seconds += self.s_per_context_token * step.context_tokens + self.s_per_adapter_answer * step.adapter_answers
        return seconds

    def prefill_s(self, start: int, end: int, *, adapter_tokens: int = 0, step_tokens: int = 0) -> float:
        """Return how long the tokens from ``start`` to ``end`` of a prompt take alone.

        Args:
            start: tokens that are cached.
            end: length of the prompt.
            adapter_tokens: of the computed ones, those that an adapter's weights apply to.
            step_tokens: tokens that a step computes at most, 0 if unknown: a long prompt takes several.
        """
        if end <= start:
            return 0.0
        steps = math.ceil((end - start) / step_tokens) if step_tokens else 1
        adapter_steps = math.ceil(adapter_tokens / step_tokens) if step_tokens else min(adapter_tokens, 1)
        fixed_s = steps * (self.fixed_s + self.prefill_fixed_s) + adapter_steps * self.adapter_fixed_s
        linear_s = self.s_per_token * (end - start) + self.s_per_adapter_token * adapter_tokens
        return fixed_s + linear_s + self.s_per_square * squares(start, end)

    @property
    def least_answers_s(self) -> float:
        """A step of answers without the part that grows with them."""
        return self.fixed_s + self.answers_fixed_s

    @property
    def prefill(self) -> PrefillModel:
        """The part that gateways compute with."""
        return PrefillModel(self.fixed_s + self.prefill_fixed_s, self.s_per_token, self.s_per_square)


PARTS = tuple(part.name for part in fields(StepModel))
