"""Items of OpenAI's Responses API as clients send them: what was said, called and answered, in order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from msgspec import Meta, structs

from aloraserve.wire.fields import OpenPart, refusal
from aloraserve.wire.messages import ChatMessage
from aloraserve.wire.tools import CalledFunction, CalledName, FunctionDefinition, FunctionName, Tool, ToolCall

MAX_ITEMS = 2048
MAX_PARTS = 256


class InputPart(OpenPart, frozen=True, kw_only=True):
    """A part of an item's content; text is the only kind served."""

    type: Literal["input_text", "output_text", "text", "refusal"]
    text: str | None = None
    refusal: str | None = None

    def __post_init__(self) -> None:
        if self._text is None:
            raise refusal("refusal" if self.type == "refusal" else "text", "is required")

    @property
    def shown(self) -> str:
        """The part's text."""
        return self._text or ""

    @property
    def _text(self) -> str | None:
        return self.refusal if self.type == "refusal" else self.text


InputContent = str | Annotated[list[InputPart], Meta(max_length=MAX_PARTS)]


class InputItem(OpenPart, frozen=True, kw_only=True):
    """An item: a message, a call of a function, or what that came to. Ids and states of items change nothing."""

    type: Literal["message", "function_call", "function_call_output"] = "message"
    id: str | None = None
    status: str | None = None
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: InputContent | None = None
    call_id: Annotated[str, Meta(max_length=256)] | None = None
    name: CalledName | None = None
    arguments: str | None = None
    output: InputContent | None = None

    def __post_init__(self) -> None:
        for field in _NEEDED[self.type]:
            if getattr(self, field) is None:
                raise refusal(field, "is required")

    @property
    def message(self) -> ChatMessage:
        """The item as a message of a chat."""
        if self.type == "message":
            return ChatMessage(role=self.role or "", content=_text(self.content))
        if self.type == "function_call_output":
            return ChatMessage(role="tool", tool_call_id=self.call_id, content=_text(self.output))
        function = CalledFunction(name=self.name or "", arguments=self.arguments)
        return ChatMessage(role="assistant", tool_calls=[ToolCall(id=self.call_id, function=function)])


_NEEDED = {
    "message": ("role", "content"),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
}


class FunctionTool(FunctionDefinition, frozen=True, kw_only=True):
    """A function; tools that OpenAI's servers run themselves are not served."""

    type: Literal["function"]

    def for_chat(self) -> Tool:
        """Return the tool as chats have it."""
        fields = {name: getattr(self, name) for name in FunctionDefinition.__struct_fields__}
        return Tool(type="function", function=FunctionDefinition(**fields))


class FunctionChoice(OpenPart, frozen=True, kw_only=True):
    """The function that the answer has to call; an object without fields asks for nothing."""

    type: Literal["function"] | None = None
    name: FunctionName | None = None

    def __post_init__(self) -> None:
        if (self.type is None) != (self.name is None):
            raise refusal("type" if self.type is None else "name", "is required")


def messages_of(items: Iterable[InputItem]) -> list[ChatMessage]:
    """Return the messages of a chat: what an assistant says and calls, one after the other, is one of them."""
    messages: list[ChatMessage] = []
    for item in items:
        message = item.message
        if message.tool_calls and messages and messages[-1].role == "assistant":
            last = messages.pop()
            message = structs.replace(last, tool_calls=[*(last.tool_calls or ()), *message.tool_calls])
        messages.append(message)
    return messages


def _text(content: InputContent | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part.shown for part in content)
