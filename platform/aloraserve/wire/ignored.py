"""Fields that no API of this server has: found by name in a call's body, and named in the answer's header."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any, get_args
from urllib.parse import quote

from msgspec import structs

from aloraserve.wire.fields import OWN_FIELD, OpenPart, refusal
from aloraserve.wire.structured import NamedSchema, ResponseFormat, StructuredOutputs

IGNORED_HEADER = "x-aloraserve-ignored"
MAX_IGNORED_FIELDS = 64
MAX_SHOWN_CHARACTERS = 64
"""Of one name."""
MAX_HEADER_CHARACTERS = 1000

_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_UNREAD_PARTS: dict[str, type[OpenPart]] = {
    "json_schema": NamedSchema,
    "response_format": ResponseFormat,
    "structured_outputs": StructuredOutputs,
}
"""Parts whose type does not stand in the type of their field."""


def ignored_fields(kind: type[OpenPart], body: dict[str, Any]) -> tuple[str, ...]:
    """Return the unknown fields of a body, each once, with the names of the fields above it.

    Args:
        kind: what was read of the body.
        body: as it was sent.

    Raises:
        FieldError: there are more than ``MAX_IGNORED_FIELDS``.
    """
    found: dict[str, None] = {}
    _collect(kind, body, "", found)
    return tuple(found)


def ignored_header(names: Sequence[str]) -> str:
    """Return the names as the header ``x-aloraserve-ignored`` shows them, characters that are not plain encoded."""
    shown: list[str] = []
    length = 0
    for name in map(_shown, names):
        length += len(name) + 2
        if length > MAX_HEADER_CHARACTERS:
            return ", ".join([*shown, f"+{len(names) - len(shown)}"])
        shown.append(name)
    return ", ".join(shown)


def _shown(name: str) -> str:
    plain = name if _NAME.fullmatch(name) else quote(name, safe=".", errors="replace")
    return plain if len(plain) <= MAX_SHOWN_CHARACTERS else plain[: MAX_SHOWN_CHARACTERS - 3] + "..."


def _collect(kind: type[OpenPart], part: dict[str, Any], above: str, found: dict[str, None]) -> None:
    """Add the unknown fields of a part and of those within it."""
    known, inner = _layout(kind)
    if not part.keys() <= known:
        found.update(dict.fromkeys(f"{above}{name[:MAX_SHOWN_CHARACTERS]}" for name in part if name not in known))
        if len(found) > MAX_IGNORED_FIELDS:
            raise refusal("", f"the body has more than {MAX_IGNORED_FIELDS} fields that are not known")
    for name, inner_kind in inner.items():
        value = part.get(name)
        for each in value if isinstance(value, list) else (value,):
            if isinstance(each, dict):
                _collect(inner_kind, each, f"{above}{name}.", found)


@functools.cache
def _layout(kind: type[OpenPart]) -> tuple[frozenset[str], dict[str, type[OpenPart]]]:
    """Return the known fields, and those of them that hold open parts, alone or in lists, with the part's type."""
    parts = {field.name: _UNREAD_PARTS.get(field.name) or _open_part(field.type) for field in structs.fields(kind)}
    known = frozenset(field.encode_name for field in structs.fields(kind)) - {OWN_FIELD}
    return known, {name: part for name, part in parts.items() if part is not None}


def _open_part(kind: Any) -> type[OpenPart] | None:
    if isinstance(kind, type) and issubclass(kind, OpenPart):
        return kind
    return next(filter(None, map(_open_part, get_args(kind))), None)
