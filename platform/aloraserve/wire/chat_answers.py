"""Answers of ``POST /v1/chat/completions``, and the chunks of a streamed one."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from aloraserve.wire.intrinsic_results import GuardResult, IntrinsicResult
from aloraserve.wire.responses import FinishReason, PromptLogprob, ResponsePart, Usage, optional

ChatFinishReason = FinishReason | Literal["tool_calls", "content_filter"]
"""The last one says that a guard refused."""


class ChatTopLogprob(ResponsePart):
    """One alternative at a position; ``bytes`` is its UTF-8, which may be part of a character."""

    token: str
    logprob: float
    bytes: list[int] | None = None


class ChatTokenLogprob(ChatTopLogprob):
    """A generated token and its alternatives."""

    top_logprobs: list[ChatTopLogprob] = Field(default_factory=list)


class ChatLogprobs(ResponsePart):
    """Log-probabilities of a choice's tokens."""

    content: list[ChatTokenLogprob]


class MessageFunction(ResponsePart):
    """A function that is called; the arguments are the JSON text that the model wrote, which may not be valid."""

    name: str
    arguments: str


class MessageToolCall(ResponsePart):
    """A call of a function."""

    id: str
    type: Literal["function"] = "function"
    function: MessageFunction


class AssistantMessage(ResponsePart):
    """Message of the model; its content is null where it does nothing but call functions."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: str | None = optional()
    tool_calls: list[MessageToolCall] | None = optional()


class ChatChoice(ResponsePart):
    """One answer."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: ChatFinishReason
    stop_reason: int | str | None = optional()
    token_ids: list[int] | None = optional()


class ChatCompletion(ResponsePart):
    """The whole answer to a chat request; ``guard`` and ``intrinsics`` are extensions, there if they were asked for."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str | None = optional()
    choices: list[ChatChoice]
    usage: Usage
    prompt_token_ids: list[int] | None = optional()
    prompt_logprobs: list[dict[int, PromptLogprob] | None] | None = optional()
    guard: list[GuardResult] | None = optional()
    intrinsics: list[IntrinsicResult] | None = optional()


class ChatDelta(ResponsePart):
    """Addition of a chunk to a choice."""

    role: Literal["assistant"] | None = optional()
    content: str | None = optional()
    refusal: str | None = optional()


class ChatChunkChoice(ResponsePart):
    """One choice's part of a chunk."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: ChatFinishReason | None = None
    stop_reason: int | str | None = optional()
    token_ids: list[int] | None = optional()


class ChatCompletionChunk(ResponsePart):
    """One event of a streamed answer; the last one may carry only the usage.

    Results of guards and intrinsics are events of their own, with a choice that adds nothing.
    """

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str | None = optional()
    choices: list[ChatChunkChoice]
    usage: Usage | None = optional()
    prompt_token_ids: list[int] | None = optional()
    guard: list[GuardResult] | None = optional()
    intrinsics: list[IntrinsicResult] | None = optional()
