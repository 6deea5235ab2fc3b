"""Statistics of one engine step: what it computed, and how long that took."""

from __future__ import annotations

from typing import NamedTuple


class StepStats(NamedTuple):
    """One step. Every engine reports its steps in this form; what they cost is learned from nothing else.

    A step in which an adapter is loaded is not reported: its time says nothing of what it computed.

    A chunk of a prompt, a prompt after a cached prefix and a prompt that is computed again after a preemption are all
    the same here: tokens, and what they attend to.

    Args:
        seconds: from its begin, or the end of the step before if that is later, to its end.
        prefill_tokens: prompt tokens computed.
        prefill_squares: sum over the prompts' parts of ``(end**2 - start**2) / 2``, as in
            :class:`~aloraserve.routing.prefill_model.PrefillModel`.
        adapter_tokens: of the prompt tokens, those that an adapter's weights apply to.
        answers: sequences that got their next tokens.
        context_tokens: tokens of all their contexts together.
        adapter_answers: of the sequences, those that an adapter's weights apply to.
        steps: how many followed each other of which these are the means.
    """

    seconds: float
    prefill_tokens: int = 0
    prefill_squares: float = 0.0
    adapter_tokens: int = 0
    answers: int = 0
    context_tokens: float = 0.0
    adapter_answers: int = 0
    steps: int = 1

    @property
    def content(self) -> tuple[float, ...]:
        """What it computed, in the order of the fields."""
        return self[1:-1]

    @property
    def prefill_reach(self) -> int:
        """The token of a prompt up to which it computed, if that is of one prompt."""
        if not self.prefill_tokens:
            return 0
        return round(self.prefill_squares / self.prefill_tokens + self.prefill_tokens / 2)


def squares(start: int, end: int) -> float:
    """Return the squares of the tokens from ``start`` to ``end`` of a prompt."""
    return (end * end - start * start) / 2
