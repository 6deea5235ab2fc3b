"""The transformations of an ``io.yaml``, checked when it is read: names, arguments, and what they need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aloraserve.adapters.intrinsics.documents import shown
from aloraserve.errors import InvalidAdapterError

MAX_TRANSFORMATIONS = 16
MAX_EXPLODES = 2
"""Each multiplies a list by another one."""
MAX_PATH = 16
MAX_NAMES = 64
TOP_LOGPROBS = 10
"""Alternatives per token that a likelihood is made of; granite-common's ``TOP_LOGPROBS``."""


def check_transformations(value: object, schema: str, sentences: Mapping[str, str], file: str) -> tuple[str, ...]:
    """Return the types of the transformations, in order.

    Args:
        value: of ``transformations``; None stands for none.
        schema: of the answer, as JSON text.
        sentences: tags of sentences, by location.
        file: for errors.

    Raises:
        InvalidAdapterError: names the transformation and what is accepted.
    """
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > MAX_TRANSFORMATIONS:
        raise InvalidAdapterError(
            f"{file} has transformations {shown(value)}; a list of at most {MAX_TRANSFORMATIONS} is accepted"
        )
    rules = tuple(
        _Rule(entry, f"{file}: transformations[{index}]").checked(schema, sentences)
        for index, entry in enumerate(value)
    )
    if rules.count("explode") > MAX_EXPLODES:
        raise InvalidAdapterError(f"{file} has more than {MAX_EXPLODES} transformations explode")
    return rules


class _Rule:
    """One transformation, as it is written."""

    def __init__(self, entry: object, where: str) -> None:
        if not isinstance(entry, dict) or not all(isinstance(key, str) for key in entry):
            raise InvalidAdapterError(f"{where} is {shown(entry)}; a mapping is accepted")
        self._entry: dict[str, Any] = entry
        self._where = where

    def checked(self, schema: str, sentences: Mapping[str, str]) -> str:
        kind = self._entry.get("type")
        if not isinstance(kind, str) or kind not in _ARGUMENTS:
            raise self._wrong("type", kind, ", ".join(_ARGUMENTS))
        self._check_path(self._entry.get("input_path"))
        arguments = _ARGUMENTS[kind]
        given = {name: value for name, value in self._entry.items() if name not in ("type", "input_path")}
        for name, (is_valid, accepted) in arguments.items():
            value = given.pop(name, None)
            if not is_valid(value):
                raise self._wrong(name, value, accepted)
        if given:
            raise self._wrong("argument", next(iter(given)), ", ".join(arguments))
        if kind == "likelihood":
            self._check_categories(schema)
        if kind == "decode_sentences" and self._entry["source"] not in sentences:
            raise self._wrong("source", self._entry["source"], "a location of sentence_boundaries")
        return kind

    def _check_path(self, path: object) -> None:
        is_path = isinstance(path, list) and len(path) <= MAX_PATH
        if not is_path or any(type(part) not in (str, int, type(None)) for part in path):  # type: ignore[attr-defined]
            raise self._wrong("input_path", path, f"a list of at most {MAX_PATH} names, indices and nulls")

    def _check_categories(self, schema: str) -> None:
        """Refuse truth values that are meant as texts: in YAML an unquoted ``yes`` is true."""
        categories = self._entry["categories_to_values"]
        if any(isinstance(name, bool) for name in categories) and '"boolean"' not in schema:
            raise self._wrong("categories_to_values with", next(iter(categories)), "a quoted text, such as 'yes',")

    def _wrong(self, name: str, value: object, accepted: str) -> InvalidAdapterError:
        return InvalidAdapterError(f"{self._where} has {name} {shown(value)}; {accepted} is accepted")


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 128


def _is_names(value: object) -> bool:
    return isinstance(value, list) and 0 < len(value) <= MAX_NAMES and all(map(_is_name, value))


def _is_renaming(value: object) -> bool:
    if isinstance(value, dict):
        return 0 < len(value) <= MAX_NAMES and all(_is_name(old) and _is_name(new) for old, new in value.items())
    return _is_names(value)


def _is_categories(value: object) -> bool:
    return (
        isinstance(value, dict) and 0 < len(value) <= MAX_NAMES and all(type(n) in (int, float) for n in value.values())
    )


def _is_source(value: object) -> bool:
    return value in ("last_message", "documents")


def _is_output_names(value: object) -> bool:
    return (
        isinstance(value, dict)
        and all(name in ("begin", "end", "text", "document_id") for name in value)
        and all(map(_is_name, value.values()))
    )


_Argument = tuple[Callable[[object], bool], str]
_NAME: _Argument = (_is_name, "a name")
_ARGUMENTS: dict[str, dict[str, _Argument]] = {
    "likelihood": {"categories_to_values": (_is_categories, "a mapping from answers to numbers")},
    "decode_sentences": {
        "source": (_is_source, "last_message or documents"),
        "output_names": (_is_output_names, "a mapping from begin, end, text and document_id to names"),
    },
    "explode": {"target_field": _NAME},
    "drop_duplicates": {"target_fields": (_is_names, "a list of names")},
    "project": {"retained_fields": (_is_renaming, "a list of names, or a mapping from old to new ones,")},
    "nest": {"field_name": _NAME},
    "merge_spans": {
        "group_fields": (lambda value: value == [] or _is_names(value), "a list of names"),
        "begin_field": _NAME,
        "end_field": _NAME,
        "text_field": (lambda value: value is None or _is_name(value), "a name"),
    },
}
"""The seven types, with their arguments: granite-common's ``TransformationRule`` classes."""
