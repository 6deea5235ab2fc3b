"""The functions that a chat offers its model, and the calls of them in a conversation.

Sources: ``ChatCompletionToolsParam`` of vLLM 0.32 (``entrypoints/openai/chat_completion/protocol.py``) and
``_postprocess_messages`` (``renderers/chat_utils.py``).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import DecodeError, Meta, json

from aloraserve.wire.fields import OpenPart, refusal
from aloraserve.wire.json_schema import MAX_SCHEMA_DEPTH, is_deeper_than

MAX_TOOLS = 128
MAX_TOOL_BYTES = 512 * 1024
"""Of all tools together, as they stand in the body."""
MAX_CALLS = 128
MAX_ARGUMENT_BYTES = 1024 * 1024

FunctionName = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_.:/-]{1,128}\Z")]
CalledName = Annotated[str, Meta(min_length=1, max_length=256)]
"""Of a function that a model called, which may be one that nobody offered it."""


class FunctionDefinition(OpenPart, frozen=True, kw_only=True):
    """A function; its parameters are a JSON schema of an object."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def __post_init__(self) -> None:
        if self.parameters and is_deeper_than(MAX_SCHEMA_DEPTH, self.parameters):
            raise refusal("parameters", f"is nested deeper than {MAX_SCHEMA_DEPTH} levels")

    def for_template(self) -> dict[str, Any]:
        """Return the function as chat templates take it: as vLLM writes it, so that both have the same prompt."""
        shown = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return shown if self.strict is None else shown | {"strict": self.strict}


class Tool(OpenPart, frozen=True, kw_only=True):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: FunctionDefinition

    def for_template(self) -> dict[str, Any]:
        """Return the tool as chat templates take it."""
        return {"type": "function", "function": self.function.for_template()}


class ChosenFunction(OpenPart, frozen=True, kw_only=True):
    """The name of a function."""

    name: FunctionName


class NamedToolChoice(OpenPart, frozen=True, kw_only=True):
    """The function that the answer has to call; an object without fields asks for nothing."""

    type: Literal["function"] | None = None
    function: ChosenFunction | None = None

    def __post_init__(self) -> None:
        if (self.type is None) != (self.function is None):
            raise refusal("type" if self.type is None else "function", "is required")


ToolChoice = Literal["none", "auto", "required"] | NamedToolChoice


class CalledFunction(OpenPart, frozen=True, kw_only=True):
    """A function with the arguments that a model gave it: JSON in a string, as OpenAI has it, or an object."""

    name: CalledName
    arguments: str | dict[str, Any] | None = None

    def for_template(self) -> dict[str, Any]:
        """Return the call as chat templates take it, with its arguments as an object.

        A model may have written arguments that are not JSON, or not an object. The conversation goes on with none, as
        in vLLM: it would end for good otherwise.
        """
        return {"name": self.name, "arguments": _arguments(self.arguments)}


class ToolCall(OpenPart, frozen=True, kw_only=True):
    """A call in an assistant's message; clients may have copied the index that streams give it."""

    id: Annotated[str, Meta(max_length=256)] | None = None
    type: Literal["function"] | None = None
    function: CalledFunction
    index: int | None = None

    def for_template(self) -> dict[str, Any]:
        """Return the call as chat templates take it."""
        shown = {"type": "function", "function": self.function.for_template()}
        return shown if self.id is None else {"id": self.id} | shown


ToolCalls = Annotated[list[ToolCall], Meta(max_length=MAX_CALLS)]
_TOOLS = json.Decoder(Annotated[list[Tool], Meta(max_length=MAX_TOOLS)] | None)


def _arguments(given: str | dict[str, Any] | None) -> dict[str, Any]:
    if not isinstance(given, str):
        return given or {}
    try:
        value = json.decode(given) if given else None
    except (DecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) and not is_deeper_than(MAX_SCHEMA_DEPTH, value) else {}
