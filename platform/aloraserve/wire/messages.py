"""Messages of a conversation, as clients send them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, json

from aloraserve.wire.fields import ABSENT, Ignored, OpenPart, Unsupported, refusal
from aloraserve.wire.tools import ToolCalls

MAX_PARTS = 256
ROLES = r"^(system|developer|user|assistant|tool|function|document [\w .,:;/#@+=-]{1,64})\Z"
"""A document's role ends with its id; what a tokenizer may take for one of its own tokens is not in it."""
_MAY_BE_NULL = frozenset({"assistant", "tool", "function"})


class TextPart(OpenPart, frozen=True, kw_only=True):
    """One part of a message's content; text is the only kind served."""

    type: Literal["text", "refusal"]
    text: str | None = None
    refusal: str | None = None

    def __post_init__(self) -> None:
        if getattr(self, self.type) is None:
            raise refusal(self.type, "is required")

    @property
    def shown(self) -> str:
        """The part's text."""
        return (self.text if self.type == "text" else self.refusal) or ""


Content = str | Annotated[list[TextPart], Meta(min_length=1, max_length=MAX_PARTS)]


class ChatMessage(OpenPart, frozen=True, kw_only=True):
    """One message of a conversation; the fields that a client copies over from an answer may be null or empty.

    ``name`` goes to the template, as ``reasoning`` does; a ``refusal`` is not part of what a model reads.
    """

    role: Annotated[str, Meta(pattern=ROLES)]
    content: Content | None = None
    name: Annotated[str, Meta(max_length=256)] | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: Ignored = ABSENT
    tool_call_id: Annotated[str, Meta(max_length=256)] | None = None
    tool_calls: ToolCalls | None = None
    audio: Unsupported = None
    function_call: Unsupported = None
    task: Unsupported = None
    tools: Unsupported = None

    def __post_init__(self) -> None:
        if self.content is None and self.role not in _MAY_BE_NULL:
            raise refusal("content", "is required")
        if self.tool_calls and self.role != "assistant":
            raise refusal("tool_calls", "is accepted only in messages of the role 'assistant'")

    @property
    def text(self) -> str:
        """The content as one string, its parts joined by line ends."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.shown for part in self.content or ())

    @property
    def more_texts(self) -> list[str]:
        """What a template may show beside the content."""
        if not (self.tool_calls or self.name or self.shown_reasoning):
            return []
        calls = [json.encode(call).decode() for call in self.tool_calls or ()]
        return calls + list(filter(None, (self.name, self.shown_reasoning)))

    @property
    def shown_reasoning(self) -> str | None:
        """What the model thought, under either of its names."""
        return self.reasoning_content if self.reasoning is None else self.reasoning

    @property
    def characters(self) -> int:
        """How long the texts are, about."""
        own = len(self.content) if isinstance(self.content, str) else len(self.text)
        return own + sum(map(len, self.more_texts))

    def for_template(self) -> dict[str, Any]:
        """Return the message as chat templates take it, and as vLLM 0.32 gives it to them."""
        message: dict[str, Any] = {"role": self.role, "content": self.text}
        if self.tool_call_id:
            message["tool_call_id"] = self.tool_call_id
        if self.name:
            message["name"] = self.name
        if self.role == "assistant":
            if self.tool_calls:
                message["tool_calls"] = [call.for_template() for call in self.tool_calls]
            if self.shown_reasoning is not None:
                message |= {"reasoning": self.shown_reasoning, "reasoning_content": self.shown_reasoning}
        return message
