"""Faults of a body in words for its client: the field, its value, and what is accepted."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

import msgspec

from aloraserve.errors import InvalidRequestError
from aloraserve.wire.completions import not_a_token_id
from aloraserve.wire.fields import FieldError, WrongValueError, not_served, refusal, unserved_fields
from aloraserve.wire.messages import ChatMessage
from aloraserve.wire.response_request import ReasoningOptions, TextOptions
from aloraserve.wire.structured import StructuredOutputs

MAX_ECHO_CHARACTERS = 80
MAX_QUOTED_BODY_BYTES = 64 * 1024
"""More is said of a body of at most that length, such as a wrong field's value: it takes reading the body once more."""
MAX_PATH_CHARACTERS = 120
MAX_LOCATED_BYTES = 1024 * 1024
"""A fault of syntax is located in a body of at most that length, for the same reason."""

_Steps = list[int | str]
_AT = re.compile(r"(?s)(.*) - at `\$(.*)`")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")
_BOUND = re.compile(r"Expected `(\w+)`( of length)? (>=|<=|>|<) (-?[\d.]+)")
_EXPECTED = re.compile(r"Expected `([\w |]+)`")
_QUOTED = re.compile(r"(?s)[^`]*`(.*)`")
_KINDS = {
    "array": "a list",
    "bool": "true or false",
    "float": "a number",
    "int": "an integer",
    "null": "null",
    "object": "an object",
    "str": "a string",
}
_BOUNDS = {">=": "at least", "<=": "at most", ">": "above", "<": "below"}
_UNITS = {"str": ("character", "characters"), "array": ("item", "items"), "object": ("entry", "entries")}
_FUNCTION = "'function'"
_FUNCTION_NAME = "a name of 1 to 128 letters, digits, '_', '-', '.', ':' and '/'"
_CHOICES = {
    "tools.type": _FUNCTION,
    "tools.function.name": _FUNCTION_NAME,
    "tool_choice": "'none', 'auto', 'required' or a function",
    "tool_choice.type": _FUNCTION,
    "tool_choice.function.name": _FUNCTION_NAME,
    "messages.tool_calls.type": _FUNCTION,
    "input.type": "'message', 'function_call' or 'function_call_output'",
    "input.role": "'user', 'assistant', 'system' or 'developer'",
    "input.content.type": "'input_text', 'output_text', 'text' or 'refusal'",
    "include": "'message.output_text.logprobs' or 'reasoning.encrypted_content'",
    "text.format.type": "'text', 'json_object' or 'json_schema'",
    "truncation": "'disabled'",
    "reasoning.effort": "'none', 'minimal', 'low', 'medium', 'high', 'xhigh' or 'max'",
    "reasoning_effort": "'none', 'minimal', 'low', 'medium', 'high', 'xhigh' or 'max'",
    "role": "'system', 'developer', 'user', 'assistant', 'tool', 'function' or 'document ID'",
    "type": "'text'",
    "response_format.type": "'text', 'json_object' or 'json_schema'",
    "adapters": "'auto' or a list of names",
    "visibility": "'public' or 'private'",
    "weights_sha256": "64 hex digits",
}
_PROMPT_FIELDS = frozenset({"messages", "prompt", "input", "instructions"})


_UNSERVED = (
    ("messages", 2, unserved_fields(ChatMessage)),
    ("structured_outputs", 1, unserved_fields(StructuredOutputs)),
    ("text", 1, unserved_fields(TextOptions)),
    ("reasoning", 1, unserved_fields(ReasoningOptions)),
)
"""The fields that are not served: in which part of a body, and how deep they stand."""


def invalid_request(kind: type[msgspec.Struct], error: msgspec.ValidationError, raw: bytes) -> InvalidRequestError:
    """Return the refusal of a body that is JSON, but not a request.

    Args:
        kind: of request.
        error: says what is wrong where.
        raw: the body.
    """
    cause = error.__cause__
    text, steps = _located(str(error if not isinstance(cause, WrongValueError) else cause.error))
    if isinstance(cause, FieldError):
        return _refused(steps, cause)
    if isinstance(cause, WrongValueError):
        steps = [cause.field, *steps]
    if unserved := _unserved(kind, steps):
        return unserved
    if text.startswith("Object contains unknown field"):
        return _refused(steps, FieldError(_quoted(text), "is not a known field"))
    if text.startswith("Object missing required field"):
        return _refused(steps, FieldError(_quoted(text), "is required"))
    if not steps:
        return InvalidRequestError("the body is not a JSON object")
    if steps[0] == "prompt" and len(steps) > 1:
        return _refused([], not_a_token_id())
    return _refused(steps, FieldError("", f"{_echo(raw, steps)}{_wanted(text, steps)}"))


def malformed(error: msgspec.DecodeError, text: str) -> InvalidRequestError:
    """Return the refusal of a body that is not JSON, or that has text which is not Unicode.

    Args:
        error: says so.
        text: the body.
    """
    if len(text) > MAX_LOCATED_BYTES:
        return InvalidRequestError(f"the body is not valid JSON: {error}")
    try:
        steps = _surrogate(json.loads(text, parse_constant=_refuse_constant))
    except json.JSONDecodeError as exc:
        where = f"line {exc.lineno} column {exc.colno} (character {exc.pos})"
        return InvalidRequestError(f"the body is not valid JSON: {exc.msg} at {where}")
    except InvalidRequestError as exc:
        return exc
    except RecursionError:
        return too_deep()
    except ValueError:
        return too_large_number()
    if not steps:
        return InvalidRequestError("the body has a key with a lone surrogate; valid Unicode text is accepted")
    return _refused(steps, refusal("", "contains a lone surrogate; valid Unicode text is accepted"))


def too_large_number() -> InvalidRequestError:
    """Return the refusal of a body with a number that nobody can compute with."""
    return InvalidRequestError("the body has a number with too many digits")


def too_deep() -> InvalidRequestError:
    """Return the refusal of a body that nobody can read."""
    return InvalidRequestError("the body is nested too deeply")


def _refused(steps: _Steps, error: FieldError) -> InvalidRequestError:
    """Return the refusal of a field.

    Args:
        steps: to the object that has the field; to the value itself if the error names no field.
        error: says what is wrong.
    """
    path = _path([*steps, error.field] if error.field else steps)
    return InvalidRequestError(f"'{path}' {error.message}" if path else error.message, param=path or None)


def _unserved(kind: type[msgspec.Struct], steps: _Steps) -> InvalidRequestError | None:
    """Return the refusal of a field that is not served, None if the fault is in another one."""
    for parent, depth, fields in (("", 0, unserved_fields(kind)), *_UNSERVED):
        name = str(steps[depth]) if len(steps) > depth else ""
        if name in fields and (not depth or steps[0] == parent):
            return _refused(steps[:depth], not_served(name, fields[name]))
    return None


def _wanted(text: str, steps: _Steps) -> str:
    if text.startswith("Invalid enum value") or "matching regex" in text:
        names = [step for step in steps if isinstance(step, str)]
        return f"should be {_CHOICES.get('.'.join(names)) or _CHOICES.get(names[-1], 'another value')}"
    if bound := _BOUND.match(text):
        kind, is_length, sign, limit = bound.groups()
        limit = limit.removesuffix(".0")
        if is_length:
            one, several = _UNITS[kind]
            return f"should be {_KINDS[kind]} of {_BOUNDS[sign]} {limit} {one if limit == '1' else several}"
        return f"should be {_KINDS[kind]} {'of ' if '=' in sign else ''}{_BOUNDS[sign]} {limit}"
    if expected := _EXPECTED.match(text):
        kinds = [_KINDS.get(kind, kind) for kind in expected[1].split(" | ") if kind != "null"]
        return f"should be {' or '.join(kinds)}"
    return "is a number out of range, or with too many digits"


def _echo(raw: bytes, steps: _Steps) -> str:
    """Return the offending value in brackets; texts of prompts and containers are never shown."""
    if len(raw) > MAX_QUOTED_BODY_BYTES or (steps[0] in _PROMPT_FIELDS and steps[-1] not in _CHOICES):
        return ""
    try:
        value: Any = msgspec.json.decode(raw)
        for step in steps:
            value = value[step]
    except (msgspec.DecodeError, LookupError, TypeError):
        return ""
    if not isinstance(value, str | int | float | bool | None):
        return ""
    return f"({_abbreviated(value)}) "


def _abbreviated(value: object) -> str:
    text = json.dumps(value[:MAX_ECHO_CHARACTERS] if isinstance(value, str) else value, ensure_ascii=False)
    return text if len(text) <= MAX_ECHO_CHARACTERS else text[: MAX_ECHO_CHARACTERS - 3] + "..."


def _located(text: str) -> tuple[str, _Steps]:
    match = _AT.fullmatch(text)
    if match is None:
        return text, []
    return match[1], [name or int(index) for name, index in _STEP.findall(match[2])]


def _quoted(text: str) -> str:
    match = _QUOTED.match(text)
    return match[1] if match else ""


def _path(steps: _Steps) -> str:
    path = ".".join(map(str, steps))
    return path if len(path) <= MAX_PATH_CHARACTERS else path[: MAX_PATH_CHARACTERS - 3] + "..."


def _surrogate(value: object, steps: tuple[int | str, ...] = ()) -> _Steps | None:
    """Return the steps to the first text that cannot be encoded."""
    if isinstance(value, str):
        return list(steps) if any("\ud800" <= character <= "\udfff" for character in value) else None
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, entry in inner:
        if found := _surrogate(entry, (*steps, step)):
            return found
    return None


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidRequestError(f"the body has {name}, which is not JSON; finite numbers are accepted")
