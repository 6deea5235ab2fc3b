"""Bounds of a JSON schema, checked before anything is compiled of it.

An engine turns a schema into a grammar in its own process. There ``maxItems: 1000000000`` takes all of its memory, and
patterns that hold at once take minutes (llguidance 1.7): so sizes, counts and patterns are bounded by what takes
milliseconds. Whether what is left is a schema says the compiler (:mod:`aloraserve.serving.structures`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aloraserve.wire.pattern import pattern_fault

MAX_SCHEMA_BYTES = 64 * 1024
MAX_SCHEMA_DEPTH = 64
"""Objects and lists within each other, as in vLLM 0.32 (``MAX_STRUCTURED_OUTPUT_JSON_NESTING``)."""
MAX_SCHEMA_VALUES = 5_000
MAX_SCHEMA_PROPERTIES = 400
"""Of one object: each may come next, and llguidance follows 2,000 possibilities at a time."""
MAX_SCHEMA_BRANCHES = 128
MAX_SCHEMA_ITEMS = 4_000
"""Of all counts of items and properties together: each is a symbol of the grammar."""
MAX_SCHEMA_LENGTH = 100_000
MAX_SCHEMA_PATTERNS = 200
MAX_JOINED_PATTERNS = 8
"""Where keywords join schemas, so that all patterns may have to hold for one text: 12 take a second, 20 minutes."""

_COUNTS = ("minItems", "maxItems", "minProperties", "maxProperties")
_LENGTHS = ("minLength", "maxLength")
_BRANCHES = ("allOf", "anyOf", "oneOf")
_REFERENCES = frozenset({"$ref", "anyOf", "oneOf"})
_JOINED = frozenset({"pattern", "format", "properties", "patternProperties", "items", "prefixItems"})
_OWN = "x-guidance"
"""The compiler's own options, among them regular expressions."""


def schema_fault(schema: dict[str, Any]) -> str:
    """Return why a schema is not accepted, an empty string if it is."""
    items: float = 0
    patterns, is_joined = 0, False
    for number, (depth, value) in enumerate(_values(schema)):
        if number >= MAX_SCHEMA_VALUES:
            return f"it has more than {MAX_SCHEMA_VALUES} values"
        if depth > MAX_SCHEMA_DEPTH:
            return f"it is nested deeper than {MAX_SCHEMA_DEPTH} levels"
        if isinstance(value, dict):
            if fault := _object_fault(value):
                return fault
            items += max(_numbers(value, _COUNTS), default=0)
            patterns += _patterns(value)
            is_joined = is_joined or _is_joined(value)
    if items > MAX_SCHEMA_ITEMS:
        return f"its counts of items and properties add up to more than {MAX_SCHEMA_ITEMS}"
    limit = MAX_JOINED_PATTERNS if is_joined else MAX_SCHEMA_PATTERNS
    return f"it has {patterns} patterns and formats; at most {limit} are accepted" if patterns > limit else ""


def with_options(schema: dict[str, Any], more: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a schema for llguidance; it takes ``oneOf`` as ``anyOf``, which xgrammar does as well.

    Args:
        schema: as the client has it.
        more: of llguidance's options.
    """
    return {**schema, _OWN: {"coerce_one_of": True, **(more or {})}}


def is_deeper_than(levels: int, value: object) -> bool:
    """Whether objects and lists stand within each other deeper than that."""
    return any(depth > levels for depth, _ in _values(value))


def _values(schema: object) -> Iterator[tuple[int, object]]:
    """Yield every value with its depth."""
    open_values: list[tuple[int, object]] = [(1, schema)]
    while open_values:
        depth, value = open_values.pop()
        yield depth, value
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        open_values += [(depth + isinstance(entry, dict | list), entry) for entry in inner]


def _object_fault(part: dict[str, Any]) -> str:
    if _OWN in part:
        return f"it has the key '{_OWN}'"
    if any(number > MAX_SCHEMA_LENGTH for number in _numbers(part, _LENGTHS)):
        return f"a length is above {MAX_SCHEMA_LENGTH}"
    properties = part.get("properties")
    if isinstance(properties, dict) and len(properties) > MAX_SCHEMA_PROPERTIES:
        return f"an object has {len(properties)} properties; at most {MAX_SCHEMA_PROPERTIES} are accepted"
    for name in _BRANCHES:
        branches = part.get(name)
        if isinstance(branches, list) and len(branches) > MAX_SCHEMA_BRANCHES:
            return f"an '{name}' has {len(branches)} entries; at most {MAX_SCHEMA_BRANCHES} are accepted"
    pattern = part.get("pattern")
    return pattern_fault(pattern) if isinstance(pattern, str) else ""


def _numbers(part: dict[str, Any], names: tuple[str, ...]) -> list[float]:
    return [value for name in names if isinstance(value := part.get(name), int | float)]


def _patterns(part: dict[str, Any]) -> int:
    named = part.get("patternProperties")
    own = sum(isinstance(part.get(name), str) for name in ("pattern", "format"))
    return own + (len(named) if isinstance(named, dict) else 0)


def _is_joined(part: dict[str, Any]) -> bool:
    return "allOf" in part or not (_REFERENCES.isdisjoint(part) or _JOINED.isdisjoint(part))
