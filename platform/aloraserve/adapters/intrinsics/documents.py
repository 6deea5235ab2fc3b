"""Documents that describe an intrinsic, read within bounds: YAML or JSON, and nothing but JSON's types in them."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import yaml

from aloraserve.errors import InvalidAdapterError

MAX_SPEC_BYTES = 128 * 1024
MAX_DEPTH = 32
MAX_NODES = 8192


class _Loader(yaml.SafeLoader):
    """YAML without what grows (aliases), what hides (a key twice) and what runs (tags of Python's)."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Return the next node; an alias is refused: ten lines of them describe a billion values."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases are not accepted", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Return a mapping; a key that stands in it twice is refused."""
        made = super().construct_mapping(node, deep=deep)
        if len(made) < len(node.value):
            problem = "a mapping has a key twice, or merges another one"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=_second(node).start_mark)
        return made


def _second(node: yaml.MappingNode) -> yaml.Node:
    """Return the first key that stands in a mapping for the second time; the mapping if there is none."""
    seen: set[object] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.value in seen:
            return key
        seen.add(getattr(key, "value", None) if isinstance(key, yaml.ScalarNode) else None)
    return node


def read_document(data: bytes, name: str) -> dict[str, Any]:
    """Return the mapping that a file holds. JSON is YAML, and is read as such.

    Args:
        data: the file's content.
        name: of the file, for errors.

    Raises:
        InvalidAdapterError: it is too long, not UTF-8, not YAML, no mapping, or holds other types than JSON has.
    """
    if len(data) > MAX_SPEC_BYTES:
        raise InvalidAdapterError(f"{name} has {len(data)} bytes; at most {MAX_SPEC_BYTES} are accepted")
    try:
        value = yaml.load(data.decode("utf-8-sig"), _Loader)  # noqa: S506
    except UnicodeDecodeError as error:
        raise InvalidAdapterError(f"{name} is not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise InvalidAdapterError(f"{name} is nested too deeply; at most {MAX_DEPTH} levels are accepted") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError) as error:
        # PyYAML's constructors let errors of int(), float() and datetime() through.
        raise InvalidAdapterError(f"{name} is not valid YAML: {_place(error)}") from None
    if not isinstance(value, dict):
        raise InvalidAdapterError(f"{name} holds {type(value).__name__}; a mapping is accepted")
    _Size(name).check(value)
    return value


def document_lines(data: bytes) -> dict[tuple[str | int, ...], int]:
    """Return the line, from 1, of every key and entry of a file that :func:`read_document` accepts, by its path."""
    lines: dict[tuple[str | int, ...], int] = {}
    _note_lines(yaml.compose(data.decode("utf-8-sig"), _Loader), (), lines)
    return lines


def _note_lines(node: yaml.Node | None, place: tuple[str | int, ...], lines: dict[tuple[str | int, ...], int]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            lines[*place, str(key.value)] = key.start_mark.line + 1
            _note_lines(value, (*place, str(key.value)), lines)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            lines[*place, number] = value.start_mark.line + 1
            _note_lines(value, (*place, number), lines)


class _Size:
    """Checks that a value has only JSON's types, and not too many of them."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._left = MAX_NODES

    def check(self, value: object, depth: int = 0) -> None:
        self._left -= 1
        if depth > MAX_DEPTH or self._left < 0:
            raise InvalidAdapterError(
                f"{self._name} is too large; at most {MAX_DEPTH} levels and {MAX_NODES} values are accepted"
            )
        if isinstance(value, dict):
            for key, entry in value.items():
                self._check_key(key)
                self.check(entry, depth + 1)
        elif isinstance(value, list):
            for entry in value:
                self.check(entry, depth + 1)
        elif not _is_scalar(value):
            raise InvalidAdapterError(f"{self._name} has {shown(value)}; JSON's types and finite numbers are accepted")

    def _check_key(self, key: object) -> None:
        if not isinstance(key, str | int):
            raise InvalidAdapterError(f"{self._name} has the key {shown(key)}; texts and integers are accepted")


def shown(value: object) -> str:
    """Return a value for an error message, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _is_scalar(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return abs(value) < 2**63
    return value is None or isinstance(value, str)


def _place(error: Exception) -> str:
    """Return what is wrong where, in one line and without the file's content."""
    mark = getattr(error, "problem_mark", None)
    problem = str(getattr(error, "problem", None) or error).splitlines()[:1]
    where = "" if mark is None else f" in line {mark.line + 1}, column {mark.column + 1}"
    return f"{(problem or [''])[0][:120]}{where}"
