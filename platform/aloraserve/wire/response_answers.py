"""Answers of ``POST /v1/responses``: a response and the items of its output."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from aloraserve.wire.responses import ResponsePart, SavingsUsage, optional

ResponseStatus = Literal["in_progress", "completed", "incomplete", "failed"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]


class OutputText(ResponsePart):
    """The text of a message; log-probabilities are there if they were asked for."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any] = Field(default_factory=list)
    logprobs: list[dict[str, Any]] = Field(default_factory=list)


class OutputMessage(ResponsePart):
    """A message of the model."""

    id: str
    type: Literal["message"] = "message"
    status: ItemStatus
    role: Literal["assistant"] = "assistant"
    content: list[OutputText]


class OutputCall(ResponsePart):
    """A call of a function."""

    id: str
    type: Literal["function_call"] = "function_call"
    status: ItemStatus
    call_id: str
    name: str
    arguments: str


OutputItem = OutputMessage | OutputCall


class InputTokensDetails(ResponsePart):
    """Of the prompt's tokens, those whose KV was already held."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputTokensDetails(ResponsePart):
    """Of the answer's tokens, those of reasoning: what a model thinks is text here."""

    reasoning_tokens: int = 0


class ResponseUsage(ResponsePart):
    """Token counts; ``aloraserve`` is an extension, absent where nothing is known."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails = OutputTokensDetails()
    total_tokens: int
    aloraserve: SavingsUsage | None = optional()


class IncompleteDetails(ResponsePart):
    """Why a response is incomplete."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class ResponseFault(ResponsePart):
    """Why a response failed."""

    code: str
    message: str


class ResponseObject(ResponsePart):
    """A response; what the request says of it is repeated."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: ResponseStatus
    error: ResponseFault | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: None = None
    reasoning: dict[str, Any]
    store: Literal[False] = False
    background: Literal[False] = False
    temperature: float
    text: dict[str, Any]
    tool_choice: Any
    tools: list[Any]
    top_p: float
    top_logprobs: int
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | None = None
    metadata: dict[str, str]
