"""A YAML file of settings, read so that nothing in it silently becomes something else.

YAML 1.1 makes a boolean of ``no``, 8 of ``010`` and 90 of ``1:30``, takes the last of two equal keys, and lets an alias
stand for any amount of data. Where a setting would get such a value, the file is refused with what was read.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import yaml

from aloraserve.errors import SettingsError

MAX_FILE_BYTES = 1 << 20
_DECIMAL = re.compile(r"[-+]?((0|[1-9][0-9]{0,99})?(\.[0-9]*)?([eE][-+]?[0-9]+)?|\.(inf|Inf|INF)|\.(nan|NaN|NAN))")
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_KINDS = {bool: "a boolean", int: "an integer", float: "a number", date: "a date", datetime: "a date"}


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """What a file says.

    Args:
        path: of the file.
        values: by key.
        words: of each key whose value is one word, that word as it stands in the file.
    """

    path: Path
    values: dict[str, Any]
    words: dict[str, str]


def read_settings_file(path: Path, secret: Container[str] = ()) -> SettingsFile:
    """Return what a file says; its keys are not checked.

    Args:
        path: of the file.
        secret: keys whose values are never shown.

    Raises:
        SettingsError: it cannot be read, is not one mapping in YAML, or has what YAML turns into something else. Names
            the line, and shows nothing that may be a secret.
    """
    try:
        return _settings(path, _text(path), secret)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        # PyYAML's own message quotes the text, which may be a key.
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1} column {mark.column + 1}" if mark else ""
        tab = "; a tab cannot indent" if "'\\t'" in str(getattr(error, "problem", "")) else ""
        raise SettingsError(f"{path}: not YAML{where}{tab}") from None
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path}: cannot be read: {type(error).__name__}") from None


def kind_of(value: object) -> str | None:
    """Return in words what YAML made of a word that was to be text, None if it did not."""
    return _KINDS.get(type(value))


def _text(path: Path) -> str:
    if path.stat().st_size > MAX_FILE_BYTES:
        raise SettingsError(f"{path}: larger than {MAX_FILE_BYTES} bytes")
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        is_utf16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")
        found = "it is UTF-16" if is_utf16 else f"it is not UTF-8 at byte {error.start}"
        raise SettingsError(f"{path}: cannot be read: {found}; save it as UTF-8") from None


class _Composer(yaml.SafeLoader):
    """Composes one document, without the aliases that may stand for gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) and event.anchor in self.anchors:
            line = getattr(event.start_mark, "line", 0) + 1
            raise _RefusedError(f"an alias at line {line} is not accepted; write out what it stands for")
        return super().compose_node(parent, index)


class _RefusedError(Exception):
    """Raised for what YAML allows and a file of settings must not have."""


def _settings(path: Path, text: str, secret: Container[str]) -> SettingsFile:
    loader = _Composer(text)
    try:
        node = loader.get_single_node()
        _refuse_surprises(node, secret)
        content = None if node is None else loader.construct_document(node)
    except _RefusedError as error:
        raise SettingsError(f"{path}: {error}") from None
    finally:
        loader.dispose()
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: holds a {type(content).__name__}; a mapping of settings is needed")
    words = {key.value: value.value for key, value in _pairs(node) if isinstance(value, yaml.ScalarNode)}
    return SettingsFile(path, {str(key): value for key, value in content.items()}, words)


def _refuse_surprises(node: yaml.Node | None, secret: Container[str]) -> None:
    for key, value in _pairs(node):
        name = str(key.value)[:80]
        for word in _scalars(value):
            if word.tag in _NUMBERS and not _DECIMAL.fullmatch(word.value):
                shown = "has a number" if name in secret else f"is {word.value[:80]}"
                raise _RefusedError(
                    f"{name} {shown}, which YAML may read as another number: write it in plain decimal, or put it in "
                    "quotes if it is text"
                )
    _refuse_twice(node)


def _refuse_twice(node: yaml.Node | None) -> None:
    seen: set[tuple[str, str]] = set()
    for key, value in _pairs(node):
        place = (key.tag, str(key.value))
        if place in seen:
            raise _RefusedError(f"a key is there twice, again at line {key.start_mark.line + 1}")
        seen.add(place)
        _refuse_twice(value)
    if isinstance(node, yaml.SequenceNode):
        for entry in node.value:
            _refuse_twice(entry)


def _pairs(node: yaml.Node | None) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    return iter(node.value if isinstance(node, yaml.MappingNode) else ())


def _scalars(node: yaml.Node) -> Iterator[yaml.ScalarNode]:
    if isinstance(node, yaml.ScalarNode):
        yield node
    elif isinstance(node, yaml.SequenceNode):
        for entry in node.value:
            yield from _scalars(entry)
    else:
        for pair in _pairs(node):
            for each in pair:
                yield from _scalars(each)
