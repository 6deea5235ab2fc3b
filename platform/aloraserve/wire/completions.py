"""``POST /v1/completions``: the request, the answer and the chunks of a streamed answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, cast

from msgspec import Meta, structs

from aloraserve.wire.fields import (
    MAX_TEXT_BYTES,
    FieldError,
    OnlyOne,
    OnlyTrue,
    Unsupported,
    refusal,
    text_bytes,
)
from aloraserve.wire.responses import FinishReason, PromptLogprob, ResponsePart, Usage, optional
from aloraserve.wire.sampling import MAX_LOGPROBS, NEUTRAL, SamplingDefaults, SamplingSettings
from aloraserve.wire.sampling_fields import MAX_GENERATED_TOKENS, TOKEN_ID_LIMIT, SamplingFields, TokenId

MAX_PROMPT_TOKENS = 1_000_000
DEFAULT_MAX_TOKENS = 16
"""OpenAI's default for this endpoint."""
Prompt = str | list[int]
AnyPrompt = str | list[TokenId | str | list[TokenId]]
"""Prompts as clients send them: one, or a list of several."""
MAX_PROMPTS = 64
MAX_COMPLETION_CHOICES = 128
"""Of all prompts together."""


class CompletionRequest(SamplingFields, frozen=True, kw_only=True):
    """A completion request: one prompt or several, each as text or as token ids."""

    prompt: AnyPrompt
    max_tokens: Annotated[int, Meta(ge=0, le=MAX_GENERATED_TOKENS)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | bool | None = None
    best_of: OnlyOne = None
    suffix: Unsupported = None
    add_special_tokens: OnlyTrue = None
    prompt_embeds: Unsupported = None

    def __post_init__(self) -> None:
        super().__post_init__()
        prompts = self.prompts()
        if len(prompts) > MAX_PROMPTS or len(prompts) * (self.n or 1) > MAX_COMPLETION_CHOICES:
            raise refusal(
                "prompt",
                f"has {len(prompts)} prompts; at most {MAX_PROMPTS} with {MAX_COMPLETION_CHOICES} choices are accepted",
            )
        for prompt in prompts:
            _check_prompt(prompt)
        if self.logprobs is True:
            raise refusal("logprobs", "should be an integer of at most 20: how many alternatives to list")
        if self.max_tokens == 0 and not self.echo:
            raise refusal("max_tokens", "(0) should be an integer of at least 1; 0 is accepted with 'echo': true")

    def prompts(self) -> list[Prompt]:
        """Return the prompts, each a text or token ids."""
        prompt: Any = self.prompt
        is_list = isinstance(prompt, list) and bool(prompt) and not isinstance(prompt[0], int)
        return cast(list[Prompt], prompt if is_list else [prompt])

    def split(self) -> list[Self]:
        """Return a request for each prompt: each is a call of its own."""
        prompts = self.prompts()
        return [self] if len(prompts) == 1 else [structs.replace(self, prompt=prompt) for prompt in prompts]

    @property
    def one_prompt(self) -> Prompt:
        """The prompt of a request that has one."""
        [prompt] = self.prompts()
        return prompt

    @property
    def shows_only_prompt(self) -> bool:
        """Whether the answer is the prompt alone; a token is generated even so, as in vLLM."""
        return self.max_tokens == 0

    def sampling(self, defaults: SamplingDefaults = NEUTRAL) -> SamplingSettings:
        """Return how to generate; without ``max_tokens``, ``DEFAULT_MAX_TOKENS`` or what the context has room for.

        Args:
            defaults: of fields that are left out.
        """
        alternatives = None if isinstance(self.logprobs, bool) else self.logprobs
        return self.settings(
            max_tokens=1 if self.shows_only_prompt else self.max_tokens,
            logprobs=alternatives,
            defaults=defaults,
            prompt_logprobs=alternatives if self.echo and self.prompt_logprobs is None else None,
        )


def _check_prompt(prompt: Prompt) -> None:
    if not prompt:
        raise refusal("prompt", "must be a string, a list of token ids, or a list of these, and none is empty")
    if isinstance(prompt, list):
        _check_token_ids(prompt)
    elif not isinstance(prompt, str):
        raise not_a_token_id()
    elif text_bytes(prompt) > MAX_TEXT_BYTES:
        raise refusal("prompt", f"is too long; at most {MAX_TEXT_BYTES} bytes of text are accepted")


def not_a_token_id() -> FieldError:
    """Return the error of a prompt that has an entry which is neither a token id nor a prompt."""
    return refusal("prompt", f"has an entry that is not a token id, an integer from 0 to {TOKEN_ID_LIMIT - 1}")


def _check_token_ids(value: list[int]) -> None:
    if len(value) > MAX_PROMPT_TOKENS:
        raise refusal("prompt", f"has {len(value)} token ids; at most {MAX_PROMPT_TOKENS} are accepted")
    if set(map(type, value)) != {int}:
        raise not_a_token_id()


class CompletionLogprobs(ResponsePart):
    """Log-probabilities of a choice's tokens; ``text_offset`` counts characters from the choice's start."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None = None
    text_offset: list[int]


class CompletionChoice(ResponsePart):
    """One generated text, or in a stream what a chunk adds to it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = optional()
    token_ids: list[int] | None = optional()
    prompt_token_ids: list[int] | None = optional()
    prompt_logprobs: list[dict[int, PromptLogprob] | None] | None = optional()


class Completion(ResponsePart):
    """The answer to a completion request, and each chunk of a streamed one."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str | None = optional()
    choices: list[CompletionChoice]
    usage: Usage | None = optional()
