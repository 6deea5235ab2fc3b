"""``POST /v1/completions``: the request, the answer and the chunks of a streamed answer."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PlainValidator, field_validator

from aloraserve.wire.fields import IGNORED_FIELDS, checked_text, refusal
from aloraserve.wire.responses import FinishReason, ResponsePart, Usage, optional
from aloraserve.wire.sampling import SamplingFields, SamplingSettings

MAX_PROMPT_TOKENS = 1_000_000
DEFAULT_MAX_TOKENS = 16
"""OpenAI's default for this endpoint."""
_TOKEN_ID_LIMIT = 2**31

Prompt = str | list[int]


def _one_prompt(value: object) -> Prompt:
    """Return the prompt: a text, or token ids; a list of one of them is that one."""
    if isinstance(value, list) and value and isinstance(value[0], str | list):
        if len(value) > 1:
            raise refusal("prompt_count", f"is a list of {len(value)} prompts; send one prompt per request")
        value = value[0]
    if isinstance(value, str) and value:
        return checked_text(value)
    if isinstance(value, list) and value:
        return _token_ids(value)
    raise refusal("prompt_type", "must be a string or a list of token ids, and not empty")


def _token_ids(value: list[object]) -> list[int]:
    if len(value) > MAX_PROMPT_TOKENS:
        raise refusal("prompt_size", f"has {len(value)} token ids; at most {MAX_PROMPT_TOKENS} are accepted")
    ids = [entry for entry in value if type(entry) is int and 0 <= entry < _TOKEN_ID_LIMIT]
    if len(ids) < len(value):
        raise refusal(
            "prompt_token", f"has an entry that is not a token id, an integer from 0 to {_TOKEN_ID_LIMIT - 1}"
        )
    return ids


class CompletionRequest(SamplingFields):
    """A completion request: one prompt, as text or as token ids."""

    unsupported: ClassVar[frozenset[str]] = frozenset({"best_of", "logit_bias", "response_format", "suffix"})
    ignored: ClassVar[frozenset[str]] = IGNORED_FIELDS

    prompt: Annotated[Prompt, PlainValidator(_one_prompt)]
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None

    @field_validator("echo", mode="after")
    @classmethod
    def _refuse_echo(cls, value: bool | None) -> bool | None:
        if value:
            raise refusal("echo", "is not supported by this server; only false is accepted")
        return value

    def sampling(self) -> SamplingSettings:
        """Return how to generate; without ``max_tokens``, ``DEFAULT_MAX_TOKENS`` or what the context has room for."""
        return self.settings(max_tokens=self.max_tokens, logprobs=self.logprobs)


class CompletionLogprobs(ResponsePart):
    """Log-probabilities of a choice's tokens; ``text_offset`` counts characters from the choice's start."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float]] | None = None
    text_offset: list[int]


class CompletionChoice(ResponsePart):
    """One generated text, or in a stream what a chunk adds to it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None = None


class Completion(ResponsePart):
    """The answer to a completion request, and each chunk of a streamed one."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = optional()
