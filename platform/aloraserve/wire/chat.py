"""``POST /v1/chat/completions``: the request, the answer and the chunks of a streamed answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Raw, json
from pydantic import Field

from aloraserve.wire.fields import MAX_TEXT_BYTES, RequestPart, Unsupported, refusal, small_value, text_bytes
from aloraserve.wire.responses import FinishReason, ResponsePart, Usage, optional
from aloraserve.wire.sampling import SamplingFields, SamplingSettings, TokenCount

MAX_MESSAGES = 2048
MAX_PARTS = 256
MAX_PARTS_IN_ALL = 8192
MAX_TEMPLATE_KWARGS = 16
MAX_TEMPLATE_KWARG_CHARACTERS = 1024
ADAPTER_KWARG = "adapter_name"
_TEMPLATE_KWARGS = json.Decoder(dict[str, Any] | None)


class TextPart(RequestPart, frozen=True, kw_only=True):
    """One part of a message's content; text is the only kind served."""

    type: Literal["text"]
    text: str


Content = str | Annotated[list[TextPart], Meta(min_length=1, max_length=MAX_PARTS)]


class ChatMessage(RequestPart, frozen=True, kw_only=True):
    """One message of a conversation; the fields that a client copies over from an answer may be null."""

    role: Literal["system", "user", "assistant"]
    content: Content
    annotations: Unsupported = None
    audio: Unsupported = None
    function_call: Unsupported = None
    name: Unsupported = None
    reasoning_content: Unsupported = None
    refusal: Unsupported = None
    tool_call_id: Unsupported = None
    tool_calls: Unsupported = None

    @property
    def text(self) -> str:
        """The content as one string, its parts joined by line ends."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content)

    @property
    def characters(self) -> int:
        """How long the text is, about."""
        return len(self.content) if isinstance(self.content, str) else sum(len(part.text) for part in self.content)

    def for_template(self) -> dict[str, str]:
        """Return the message as chat templates take it."""
        return {"role": self.role, "content": self.text}


class ChatRequest(SamplingFields, frozen=True, kw_only=True):
    """A chat completion request.

    ``chat_template_kwargs.adapter_name`` names an adapter, as an alternative to ``model``; other template
    arguments are JSON scalars that go to the template.
    """

    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: TokenCount | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    chat_template_kwargs: Raw = Raw()
    audio: Unsupported = None
    function_call: Unsupported = None
    functions: Unsupported = None
    logit_bias: Unsupported = None
    modalities: Unsupported = None
    moderation: Unsupported = None
    prediction: Unsupported = None
    prompt_cache_key: Unsupported = None
    prompt_cache_options: Unsupported = None
    prompt_cache_retention: Unsupported = None
    reasoning_effort: Unsupported = None
    response_format: Unsupported = None
    safety_identifier: Unsupported = None
    tool_choice: Unsupported = None
    tools: Unsupported = None
    verbosity: Unsupported = None
    web_search_options: Unsupported = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_template_kwargs(self._template_kwargs())
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise refusal("", "'max_tokens' and 'max_completion_tokens' differ; send one of them")
        if self.top_logprobs is not None and not self.logprobs:
            raise refusal("", "'top_logprobs' is accepted only with 'logprobs': true")
        self._check_size()

    def _check_size(self) -> None:
        parts = [message.content for message in self.messages if not isinstance(message.content, str)]
        count = sum(map(len, parts))
        if count > MAX_PARTS_IN_ALL:
            raise refusal("messages", f"has {count} text parts; at most {MAX_PARTS_IN_ALL} are accepted")
        if sum(text_bytes(message.text) for message in self.messages) > MAX_TEXT_BYTES:
            raise refusal("", f"'messages' carry more than {MAX_TEXT_BYTES} bytes of text")

    @property
    def adapter_name(self) -> str | None:
        """The adapter that ``chat_template_kwargs`` names, if any."""
        name = self._template_kwargs().get(ADAPTER_KWARG)
        return name if isinstance(name, str) else None

    def template_kwargs(self) -> dict[str, object]:
        """Return the arguments for the chat template, without the adapter's name."""
        return {k: v for k, v in self._template_kwargs().items() if k != ADAPTER_KWARG}

    def _template_kwargs(self) -> dict[str, Any]:
        return small_value("chat_template_kwargs", self.chat_template_kwargs, _TEMPLATE_KWARGS) or {}

    def sampling(self) -> SamplingSettings:
        """Return how to generate the answer."""
        alternatives = (self.top_logprobs or 0) if self.logprobs else None
        return self.settings(max_tokens=self.max_completion_tokens or self.max_tokens, logprobs=alternatives)


def _check_template_kwargs(given: dict[str, Any]) -> None:
    if len(given) > MAX_TEMPLATE_KWARGS:
        raise refusal("chat_template_kwargs", f"has {len(given)} entries; at most {MAX_TEMPLATE_KWARGS} are accepted")
    for name, entry in given.items():
        _check_template_kwarg(name, entry)


def _check_template_kwarg(name: str, value: object) -> None:
    """Raise a validation error unless ``name`` and ``value`` may go to a chat template."""
    if not name.isidentifier() or len(name) > 64:
        raise refusal("chat_template_kwargs", "has a name that is not an identifier of at most 64 characters")
    if name == ADAPTER_KWARG and not (isinstance(value, str) and value):
        raise refusal("chat_template_kwargs", f"has an '{ADAPTER_KWARG}' that is not an adapter's name; send a string")
    if not isinstance(value, str | int | float | bool | None):
        raise refusal("chat_template_kwargs", f"has a '{name}' that is not a string, number, true, false or null")
    if isinstance(value, str) and text_bytes(value) > MAX_TEMPLATE_KWARG_CHARACTERS:
        raise refusal("chat_template_kwargs", f"has a '{name}' above {MAX_TEMPLATE_KWARG_CHARACTERS} bytes")
    if isinstance(value, int | float) and not abs(value) < 2.0**63:
        raise refusal("chat_template_kwargs", f"has a '{name}' that is not a finite number below 2**63")


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


class AssistantMessage(ResponsePart):
    """Message of the model."""

    role: Literal["assistant"] = "assistant"
    content: str


class ChatChoice(ResponsePart):
    """One answer."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason


class ChatCompletion(ResponsePart):
    """The whole answer to a chat request."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class ChatDelta(ResponsePart):
    """Addition of a chunk to a choice."""

    role: Literal["assistant"] | None = optional()
    content: str | None = optional()


class ChatChunkChoice(ResponsePart):
    """One choice's part of a chunk."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None


class ChatCompletionChunk(ResponsePart):
    """One event of a streamed answer; the last one may carry only the usage."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = optional()
