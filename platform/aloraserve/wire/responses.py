"""Parts that the answers of both endpoints share."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from aloraserve.savings.base import CallSavings

FinishReason = Literal["stop", "length"]


def _absent(value: object) -> bool:
    return value is None


def optional() -> Any:
    """Return a field that is None by default and then left out of the JSON."""
    return Field(default=None, exclude_if=_absent)


class ResponsePart(BaseModel):
    """Base of every model that the server sends."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    def to_json(self) -> str:
        """Return the JSON text that goes on the wire."""
        return self.model_dump_json()


class PromptLogprob(ResponsePart):
    """A token in a place of the prompt, by its id: with its rank among all tokens there, from 1."""

    logprob: float
    rank: int
    decoded_token: str


class PromptTokensDetails(ResponsePart):
    """Of the prompt's tokens, those whose KV was already held."""

    cached_tokens: int = 0


class CachedTokensBySource(ResponsePart):
    """Cached prompt tokens by who first computed them."""

    own: int
    base: int
    sibling: int
    unknown: int


class SavingsUsage(ResponsePart):
    """Savings of one request by reuse across adapters, as its replica estimates it; ``docs/concepts/savings.md``."""

    saved_ttft_ms: float
    counterfactual_ttft_ms: float
    saved_tokens: int
    confidence: float
    cached_tokens_by_source: CachedTokensBySource

    @classmethod
    def of(cls, savings: CallSavings, ttft_s: float) -> SavingsUsage:
        """Return the savings of a call whose TTFT was ``ttft_s`` seconds."""
        return cls(
            saved_ttft_ms=round(savings.saved_s * 1000, 1),
            counterfactual_ttft_ms=round((ttft_s + savings.saved_s) * 1000, 1),
            saved_tokens=savings.saved_tokens,
            confidence=round(savings.confidence, 2),
            cached_tokens_by_source=CachedTokensBySource(**asdict(savings.cached)),
        )


class Usage(ResponsePart):
    """Token counts of one request; ``aloraserve`` is an extension, absent where nothing is known."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails = PromptTokensDetails()
    aloraserve: SavingsUsage | None = optional()

    @classmethod
    def of(
        cls, prompt_tokens: int, completion_tokens: int, cached_tokens: int, savings: SavingsUsage | None = None
    ) -> Usage:
        """Return the usage whose total is the sum of the prompt's and the completion's tokens."""
        return cls(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=prompt_tokens + completion_tokens,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=cached_tokens),
            aloraserve=savings,
        )
