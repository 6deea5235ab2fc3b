"""The page of all request fields, written from the request models.

python -m aloraserve.wire.field_table > docs/reference/openai-fields.md
"""

from __future__ import annotations

import sys
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from msgspec import Meta, Struct, structs

from aloraserve.wire.chat import ChatRequest
from aloraserve.wire.completions import CompletionRequest
from aloraserve.wire.fields import IGNORED, ONLY, CallFields, OpenPart
from aloraserve.wire.intrinsics import IntrinsicsRequest
from aloraserve.wire.messages import ChatMessage
from aloraserve.wire.response_items import InputItem
from aloraserve.wire.response_request import ReasoningOptions, ResponsesRequest, TextOptions
from aloraserve.wire.sampling_fields import StreamOptions
from aloraserve.wire.tokenize import DetokenizeRequest, TokenizeRequest

Treatment = Literal["served", "ignored", "refused"]
_HEAD = """\
# Request fields

Every field of OpenAI's `chat.completions`, `completions` and `responses` requests, of vLLM 0.32's with `/tokenize` and
`/detokenize`, and of `/v1/intrinsics`, in one of three ways:

- **served**: it does what it says.
- **ignored**: it is accepted, 128 KiB at most, and changes nothing.
- **refused**: it would change the answer and is not served. A 400 names it, unless its value asks for nothing: `null`,
  what is empty (`""`, `[]`, `{}`) and the value in the last column do. For a field that is served they do as well.

`/tokenize` checks a chat's whole body; what does not change the prompt changes nothing there. `/v1/intrinsics` refuses
fields that are not in this table.

Any other field is passed over, in messages, content parts and options too. The answer's header `x-aloraserve-ignored`
names it (`messages.mood, seeed`), with the fields above it; characters other than letters, digits, `_`, `-` and `.` are
percent-encoded, and names beyond 1,000 characters are counted (`+3`). More than 64 names are a 400. So are a key that
appears twice in an object, numbers that are not finite, and more than 65,536 names and texts.
[HTTP API](api.md#request-fields) says what the fields mean.

`make docs-fields` writes this page from the request models.
"""
REQUESTS: dict[str, type[CallFields]] = {
    "chat": ChatRequest,
    "completions": CompletionRequest,
    "responses": ResponsesRequest,
    "tokenize": TokenizeRequest,
    "detokenize": DetokenizeRequest,
    "intrinsics": IntrinsicsRequest,
}
"""By the names of their endpoints."""
_PARTS: tuple[tuple[str, type[OpenPart], str], ...] = (
    ("Message", ChatMessage, "`messages` of a chat: each entry."),
    ("Stream options", StreamOptions, "`stream_options`, only with `stream`."),
    ("Response input", InputItem, "`input` of a response, where it is a list: each entry."),
    ("Response text", TextOptions, "`text` of a response."),
    ("Response reasoning", ReasoningOptions, "`reasoning` of a response."),
)
_TYPES = {str: "a string", bool: "`true`, `false`", int: "an integer", float: "a number", type(None): "null"}


def treatment(kind: type[Struct], name: str) -> tuple[Treatment, str]:
    """Return how a field is treated, and what is accepted.

    Args:
        kind: of the request.
        name: of the field.
    """
    extra = {key: value for meta in _metas(kind, name) for key, value in (meta.extra or {}).items()}
    if IGNORED in extra:
        return "ignored", "anything"
    if ONLY in extra:
        return "refused", f"`{extra[ONLY]}`" if extra[ONLY] else ""
    return "served", _accepted(_type(kind, name))


def field_names(kind: type[Struct]) -> list[str]:
    """Return the names of a request's fields."""
    return [field.encode_name for field in structs.fields(kind) if field.name == field.encode_name]


def page() -> str:
    """Return the page, as Markdown."""
    sections = [_HEAD, _requests()]
    for title, kind, text in _PARTS:
        rows = [(name, *treatment(kind, name)) for name in sorted(field_names(kind))]
        sections.append(f"## {title}\n{text}\n\n{_table(('field', 'treatment', 'accepted'), rows)}")
    return "\n".join(sections)


def _requests() -> str:
    names = sorted({name for kind in REQUESTS.values() for name in field_names(kind)})
    rows = [(name, _named(endpoints), *how) for name in names for how, endpoints in _by_treatment(name).items()]
    return f"## Requests\n{_table(('field', 'endpoint', 'treatment', 'accepted'), rows)}"


def _by_treatment(name: str) -> dict[tuple[Treatment, str], list[str]]:
    """Return the endpoints that have a field, by how they treat it."""
    found: dict[tuple[Treatment, str], list[str]] = {}
    for endpoint, kind in REQUESTS.items():
        if name in field_names(kind):
            found.setdefault(treatment(kind, name), []).append(endpoint)
    return found


def _named(endpoints: list[str]) -> str:
    return "all" if len(endpoints) == len(REQUESTS) else ", ".join(endpoints)


def _table(head: tuple[str, ...], rows: list[Any]) -> str:
    lines = [" | ".join(head), "|".join("---" for _ in head)]
    lines += [" | ".join((f"`{row[0]}`", *row[1:-1], row[-1].replace("|", "\\|"))) for row in rows]
    return "".join(f"| {line} |\n" if "---" not in line else f"|{line}|\n" for line in lines)


def _type(kind: type[Struct], name: str) -> Any:
    return next(field.type for field in structs.fields(kind) if field.encode_name == name)


def _metas(kind: type[Struct], name: str) -> list[Meta]:
    return [meta for meta in getattr(_type(kind, name), "__metadata__", ()) if isinstance(meta, Meta)]


def _accepted(kind: Any) -> str:
    """Return a type in words; null goes without saying."""
    if get_origin(kind) is Annotated:
        return _constrained(*get_args(kind))
    if get_origin(kind) in (Union, types.UnionType):
        return ", or ".join(dict.fromkeys(_accepted(each) for each in get_args(kind) if each is not type(None)))
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    if get_origin(kind) is list:
        return f"a list: {_accepted(get_args(kind)[0])}"
    if get_origin(kind) is dict:
        return "an object"
    return _TYPES.get(kind, "an object")


def _constrained(kind: Any, *metas: Meta) -> str:
    """Return a type with its bounds in words; a description says it all."""
    words = _accepted(kind)
    for meta in metas:
        if meta.description:
            return meta.description
        low, high = _bounds(meta)
        if low is not None or high is not None:
            words = f"{words}, {_span(low, high)}{_unit(kind, meta)}"
    return words


def _bounds(meta: Meta) -> tuple[str | None, str | None]:
    lows = {"": meta.ge, "above ": meta.gt, " ": meta.min_length}
    highs = {"": meta.le, "below ": meta.lt, " ": meta.max_length}
    return _bound(lows), _bound(highs)


def _bound(found: dict[str, Any]) -> str | None:
    return next((f"{word}{_number(value)}".strip() for word, value in found.items() if value is not None), None)


def _number(value: float) -> str:
    """Return a bound; ``typing`` keeps one of two equal ones, so that a whole number may come as either type."""
    return f"{int(value):,}" if value == int(value) else f"{value:,}"


def _span(low: str | None, high: str | None) -> str:
    if high is None:
        return f"at least {low}"
    return f"at most {high}" if low is None else f"{low} to {high}"


def _unit(kind: Any, meta: Meta) -> str:
    if meta.min_length is None and meta.max_length is None:
        return ""
    return " characters" if kind is str else " entries"


if __name__ == "__main__":
    sys.stdout.write(page())
