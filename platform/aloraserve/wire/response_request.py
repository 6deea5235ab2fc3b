"""``POST /v1/responses``: OpenAI's Responses API without a memory, as a request that becomes a chat.

Nothing of a response is kept here (``store`` false is what it always is), so what needs an earlier one is refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Raw, json, to_builtins

from aloraserve.wire.chat import ChatRequest, ReasoningEffort, TemplateKwargs
from aloraserve.wire.fields import (
    ABSENT,
    FieldError,
    Ignored,
    OnlyFalse,
    OnlyNull,
    OpenPart,
    Unsupported,
    refusal,
    small_value,
)
from aloraserve.wire.messages import ChatMessage
from aloraserve.wire.response_items import (
    MAX_ITEMS,
    FunctionChoice,
    FunctionTool,
    InputItem,
    messages_of,
)
from aloraserve.wire.sampling_fields import SamplingFields, TokenCount
from aloraserve.wire.tools import MAX_TOOLS, ChosenFunction, NamedToolChoice, ToolChoice

LOGPROBS = "message.output_text.logprobs"
Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=16)
]
_METADATA = json.Decoder(Metadata | None)


class TextFormat(OpenPart, frozen=True, kw_only=True):
    """The form of the answer's text."""

    type: Literal["text", "json_object", "json_schema"] | None = None
    name: Annotated[str, Meta(max_length=256)] | None = None
    description: str | None = None
    schema: Raw = ABSENT
    strict: bool | None = None

    def for_chat(self) -> Raw:
        """Return the form as ``response_format`` has it."""
        if self.type != "json_schema":
            return ABSENT if self.type is None else Raw(json.encode({"type": self.type}))
        named: dict[str, Any] = {"name": self.name, "schema": self.schema if memoryview(self.schema) else None}
        return Raw(json.encode({"type": "json_schema", "json_schema": named}))


class TextOptions(OpenPart, frozen=True, kw_only=True):
    """Options of the answer's text."""

    format: TextFormat | None = None
    verbosity: Unsupported = None


class ReasoningOptions(OpenPart, frozen=True, kw_only=True):
    """How much a model is to think, which is for its chat template to say."""

    effort: ReasoningEffort | None = None
    summary: Unsupported = None
    generate_summary: Unsupported = None


class ResponsesRequest(SamplingFields, frozen=True, kw_only=True):
    """A request for a response. Beside OpenAI's fields it has those of sampling that chats have."""

    input: Annotated[str, Meta(min_length=1)] | Annotated[list[InputItem], Meta(min_length=1, max_length=MAX_ITEMS)]
    instructions: str | None = None
    tools: Annotated[list[FunctionTool], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    max_output_tokens: TokenCount | None = None
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    truncation: Literal["disabled"] | None = None
    chat_template_kwargs: TemplateKwargs = ABSENT
    max_tool_calls: Ignored = ABSENT
    include_reasoning: bool | None = None
    access_programs: Unsupported = None
    background: OnlyFalse = None
    background_options: Unsupported = None
    context_management: Unsupported = None
    conversation: Unsupported = None
    enable_response_messages: OnlyFalse = None
    image: Unsupported = None
    media_io_kwargs: Unsupported = None
    mm_processor_kwargs: Unsupported = None
    moderation: Unsupported = None
    previous_input_messages: Unsupported = None
    previous_response_id: Unsupported = None
    prompt: Unsupported = None
    prompt_logprobs: OnlyNull = None
    return_token_ids: OnlyFalse = None
    adapters: Unsupported = None
    guard: Unsupported = None
    intrinsics: Unsupported = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, other in _OF_CHATS.items():
            if _is_sent(getattr(self, field)):
                raise refusal(field, f"is a chat's; send '{other}'")
        if (self.n or 1) > 1:
            raise refusal("n", "is not supported here; only 1 is accepted")
        if self.top_logprobs and not self.has_logprobs:
            raise refusal("", f"'top_logprobs' is accepted only with '{LOGPROBS}' in 'include'")
        self.shown_metadata()
        try:
            self.chat()
        except FieldError as error:
            raise refusal(_own_name(error.field), error.message) from None

    @property
    def has_logprobs(self) -> bool:
        """Whether the answer's text has log-probabilities."""
        return LOGPROBS in (self.include or ())

    def shown_metadata(self) -> dict[str, str]:
        """Return the client's own pairs, which the answer repeats."""
        return small_value("metadata", self.metadata, _METADATA) or {}

    def chat(self) -> ChatRequest:
        """Return the request as a chat.

        Raises:
            FieldError: it is not one that is accepted.
        """
        shared = {name: getattr(self, name) for name in _SHARED}
        return ChatRequest(
            **shared,
            messages=self._messages(),
            max_completion_tokens=self.max_output_tokens,
            tools=[tool.for_chat() for tool in self.tools] if self.tools else None,
            tool_choice=self._tool_choice(),
            parallel_tool_calls=self.parallel_tool_calls,
            reasoning_effort=None if self.reasoning is None else self.reasoning.effort,
            response_format=self._format(),
            logprobs=self.has_logprobs or None,
            top_logprobs=self.top_logprobs if self.has_logprobs else None,
            chat_template_kwargs=self.chat_template_kwargs,
            include_reasoning=self.include_reasoning,
        )

    def repeated(self) -> dict[str, Any]:
        """Return what a response repeats of its request."""
        return {
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "reasoning": {"effort": None if self.reasoning is None else self.reasoning.effort, "summary": None},
            "text": {"format": self._shown_format()},
            "tool_choice": to_builtins(self.tool_choice) or "auto",
            "tools": to_builtins(self.tools or []),
            "top_logprobs": self.top_logprobs or 0,
            "metadata": self.shown_metadata(),
        }

    def _shown_format(self) -> dict[str, Any]:
        form = None if self.text is None else self.text.format
        if form is None or form.type is None:
            return {"type": "text"}
        if form.type != "json_schema":
            return {"type": form.type}
        schema = json.decode(form.schema)
        shown = {"name": form.name, "schema": schema, "description": form.description, "strict": form.strict}
        return {"type": "json_schema", **shown}

    def _messages(self) -> list[ChatMessage]:
        first = [ChatMessage(role="system", content=self.instructions)] if self.instructions else []
        if isinstance(self.input, str):
            return [*first, ChatMessage(role="user", content=self.input)]
        return [*first, *messages_of(self.input)]

    def _tool_choice(self) -> ToolChoice | None:
        choice = self.tool_choice
        if not isinstance(choice, FunctionChoice):
            return choice
        if choice.name is None:
            return None
        return NamedToolChoice(type="function", function=ChosenFunction(name=choice.name))

    def _format(self) -> Raw:
        if self.text is None or self.text.format is None:
            return ABSENT
        return self.text.format.for_chat()


_OF_CHATS = {"max_tokens": "max_output_tokens", "response_format": "text.format"}
_NOT_SHARED = {*_OF_CHATS, "ignored", "metadata", "stream_options"}
_SHARED = tuple(name for name in SamplingFields.__struct_fields__ if name not in _NOT_SHARED)
_OWN_NAMES = {"response_format.json_schema.schema": "text.format.schema", "messages": "input"}


def _is_sent(value: object) -> bool:
    """Whether a field of a chat is in the body, with a value that asks for something."""
    return bytes(value) not in (b"", b"null", b'""', b"{}") if isinstance(value, Raw) else value is not None


def _own_name(field: str) -> str:
    """Return what a field of a chat is called here."""
    return _OWN_NAMES.get(field, field)
