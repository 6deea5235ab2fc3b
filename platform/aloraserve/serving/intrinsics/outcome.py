"""What became of one intrinsic over a conversation."""

from __future__ import annotations

from dataclasses import dataclass

from aloraserve.adapters.intrinsics import GuardRule
from aloraserve.adapters.intrinsics.answers import IntrinsicValue
from aloraserve.errors import InvalidRequestError


@dataclass(frozen=True, slots=True)
class CallFacts:
    """How an intrinsic's call was answered.

    Args:
        adapter: name and content of the version that answered.
        text: the raw answer.
        finish_reason: "stop" or "length".
        prompt_tokens: of the prompt.
        cached_tokens: of these, not prefilled.
        completion_tokens: of the answer.
        replica: label of the replica that answered.
        ttft_s: from the call's acceptance to its first token.
    """

    adapter: str
    text: str
    finish_reason: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    replica: str
    ttft_s: float


@dataclass(frozen=True, slots=True)
class IntrinsicOutcome:
    """A value, or an error; with facts if the call was answered.

    Args:
        call_id: of its call, as receipts know it.
        name: as it was asked for.
        total_s: from the request's begin to its end.
        value: what the answer means.
        error: why there is no value.
        facts: None for a call that was not answered.
        guard: the adapter's own rule; None if no adapter was found.
    """

    call_id: str
    name: str
    total_s: float
    value: IntrinsicValue | None = None
    error: Exception | None = None
    facts: CallFacts | None = None
    guard: GuardRule | None = None


@dataclass(frozen=True, slots=True)
class GuardVerdict:
    """What a guard says of a conversation.

    Args:
        outcome: of its intrinsic; it has a probability.
        probability: of what it asks.
        rule: that was applied.
    """

    outcome: IntrinsicOutcome
    probability: float
    rule: GuardRule

    @property
    def is_refusal(self) -> bool:
        """Whether the conversation is refused."""
        return self.rule.is_refusal(self.probability)

    @classmethod
    def of(cls, outcome: IntrinsicOutcome, threshold: float | None) -> GuardVerdict:
        """Return the verdict of an outcome. A guard that cannot say does not let anything pass: it fails the call.

        Args:
            outcome: of the guard's intrinsic.
            threshold: the request's own, None for the intrinsic's.

        Raises:
            InvalidRequestError: the intrinsic has no probability.
            Exception: the outcome's error.
        """
        if outcome.error is not None:
            raise outcome.error
        probability = outcome.value.probability if outcome.value else None
        if probability is None:
            raise InvalidRequestError(
                f"intrinsic {outcome.name[:80]!r} gives no probability, so that it cannot guard", param="guard"
            )
        own = outcome.guard or GuardRule()
        return cls(outcome, probability, own if threshold is None else GuardRule(threshold, own.refuses))
