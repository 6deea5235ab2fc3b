"""The form of an answer that has to call functions, after ``get_json_schema_from_tools`` of vLLM 0.32
(``tool_parsers/utils.py``): a list of calls, or the arguments of the one function that is named.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import json

from aloraserve.wire.fields import refusal
from aloraserve.wire.json_schema import MAX_SCHEMA_BYTES, schema_fault, with_options
from aloraserve.wire.structured import StructuredOutput
from aloraserve.wire.tools import FunctionDefinition, NamedToolChoice, Tool, ToolChoice

_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""As chat templates write JSON (``json.dumps``): so a later turn shows the arguments with the same tokens."""
_DEFINITIONS = ("$defs", "definitions")


def forced_form(tools: Sequence[Tool], choice: ToolChoice | None, *, is_parallel: bool) -> StructuredOutput | None:
    """Return the form of an answer that is to be nothing but calls, None for one that may be anything.

    Args:
        tools: that are offered.
        choice: which of them to call.
        is_parallel: whether the answer may have more than one call.

    Raises:
        FieldError: the parameters are not a schema that can be held.
    """
    if isinstance(choice, NamedToolChoice) and choice.function is not None:
        schema = _parameters(_named(tools, choice.function.name))
    elif choice == "required":
        schema = _list_of_calls(tools, is_parallel=is_parallel)
    else:
        return None
    if fault := schema_fault(schema):
        raise refusal("tools", f"has parameters that are a JSON schema that is not accepted: {fault}")
    text = json.encode(with_options(schema, _SPACING)).decode()
    if len(text) > MAX_SCHEMA_BYTES:
        raise refusal("tools", f"has parameters of more than {MAX_SCHEMA_BYTES} bytes, and 'tool_choice' needs them")
    return StructuredOutput("json", text)


def _named(tools: Sequence[Tool], name: str) -> FunctionDefinition:
    found = next((tool.function for tool in tools if tool.function.name == name), None)
    if found is None:
        raise refusal("tool_choice", f"names the function '{name}', which is not among the 'tools'")
    return found


def _list_of_calls(tools: Sequence[Tool], *, is_parallel: bool) -> dict[str, Any]:
    calls = [_call(tool.function) for tool in tools]
    schema: dict[str, Any] = {"type": "array", "minItems": 1, "items": {"anyOf": calls}}
    if not is_parallel:
        schema["maxItems"] = 1
    return schema | _definitions(tools)


def _call(function: FunctionDefinition) -> dict[str, Any]:
    parameters = {key: value for key, value in _parameters(function).items() if key not in _DEFINITIONS}
    return {
        "type": "object",
        "properties": {"name": {"const": function.name}, "parameters": parameters},
        "required": ["name", "parameters"],
        "additionalProperties": False,
    }


def _parameters(function: FunctionDefinition) -> dict[str, Any]:
    return {"type": "object", **(function.parameters or {"properties": {}})}


def _definitions(tools: Sequence[Tool]) -> dict[str, Any]:
    """Return what parameters refer to from the schema's root, which is no longer their own."""
    found: dict[str, dict[str, Any]] = {}
    for tool in tools:
        for key in _DEFINITIONS:
            own = (tool.function.parameters or {}).get(key)
            for name, schema in own.items() if isinstance(own, dict) else ():
                if found.setdefault(key, {}).setdefault(name, schema) != schema:
                    raise refusal("tools", f"has two different definitions '{name[:64]}'; give them different names")
    return found
