"""Messages of a conversation, as clients send them."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from aloraserve.wire.fields import OpenPart, Unsupported

MAX_PARTS = 256
ROLES = r"^(system|developer|user|assistant|tool|document [\w .,:;/#@+=-]{1,64})\Z"
"""A document's role ends with its id; what a tokenizer may take for one of its own tokens is not in it."""


class TextPart(OpenPart, frozen=True, kw_only=True):
    """One part of a message's content; text is the only kind served."""

    type: Literal["text"]
    text: str


Content = str | Annotated[list[TextPart], Meta(min_length=1, max_length=MAX_PARTS)]


class ChatMessage(OpenPart, frozen=True, kw_only=True):
    """One message of a conversation; the fields that a client copies over from an answer may be null or empty."""

    role: Annotated[str, Meta(pattern=ROLES)]
    content: Content
    tool_call_id: Annotated[str, Meta(max_length=256)] | None = None
    annotations: Unsupported = None
    audio: Unsupported = None
    function_call: Unsupported = None
    name: Unsupported = None
    provider_specific_fields: Unsupported = None
    reasoning: Unsupported = None
    reasoning_content: Unsupported = None
    reasoning_details: Unsupported = None
    refusal: Unsupported = None
    task: Unsupported = None
    thinking_blocks: Unsupported = None
    tool_calls: Unsupported = None
    tools: Unsupported = None

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
        message = {"role": self.role, "content": self.text}
        return message | {"tool_call_id": self.tool_call_id} if self.tool_call_id else message
