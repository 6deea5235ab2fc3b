"""What the answers of both endpoints share."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

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


class PromptTokensDetails(ResponsePart):
    """Of the prompt's tokens, those whose KV was already held."""

    cached_tokens: int = 0


class Usage(ResponsePart):
    """Token counts of one request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails = PromptTokensDetails()

    @classmethod
    def of(cls, prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> Usage:
        """Return the usage whose total is the sum of the prompt's and the completion's tokens."""
        return cls(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=prompt_tokens + completion_tokens,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=cached_tokens),
        )
