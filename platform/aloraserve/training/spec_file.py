"""From a YAML file to a checked model: every problem at once, each with the line that it is about."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from aloraserve.adapters.intrinsics import read_intrinsic
from aloraserve.adapters.intrinsics.documents import MAX_SPEC_BYTES, document_lines, read_document
from aloraserve.adapters.problems import shown
from aloraserve.errors import InvalidAdapterError
from aloraserve.training.problems import ProblemList

Spec = TypeVar("Spec", bound=BaseModel)
Place = tuple[str | int, ...]

_INTRINSIC = ("intrinsic",)
_BRANCHES = ("str", "dict", "constrained-str")


class SpecFile(NamedTuple, Generic[Spec]):
    """A spec as its file has it.

    Args:
        spec: checked.
        io_yaml: content of the file that its ``intrinsic`` names, None if it names none.
        lines: of its keys, by their paths.
    """

    spec: Spec
    io_yaml: bytes | None
    lines: Mapping[Place, int]


def read_spec(model: type[Spec], path: Path) -> SpecFile[Spec]:
    """Return the spec that a file holds.

    Raises:
        TrainingError: it cannot be used; has every problem, with its line.
    """
    problems = ProblemList()
    data = _content(path, path.name, 0, problems)
    problems.raise_any()
    assert data is not None
    try:
        given, lines = read_document(data, path.name), document_lines(data)
    except InvalidAdapterError as error:
        problems.add(path.name, 0, error.message.removeprefix(f"{path.name} "))
        problems.raise_any()
        raise
    spec = None
    try:
        spec = model.model_validate(given)
    except ValidationError as error:
        for found in error.errors(include_url=False, include_context=False):
            _add(problems, path.name, model, found, lines)
    io_yaml = _io_yaml(given.get("intrinsic"), path, lines, problems)
    problems.raise_any()
    assert spec is not None
    return SpecFile(spec, io_yaml, lines)


def _io_yaml(named: object, path: Path, lines: Mapping[Place, int], problems: ProblemList) -> bytes | None:
    if not isinstance(named, str) or not named:
        return None
    line = lines.get(_INTRINSIC, 0)
    data = _content(path.parent / Path(named).expanduser(), named, line, problems, of=path.name)
    if data is not None:
        try:
            read_intrinsic(data)
        except InvalidAdapterError as error:
            problems.add(path.name, line, f"names {shown(named)} in intrinsic: {error.message}")
    return data


def _content(path: Path, name: str, line: int, problems: ProblemList, *, of: str = "") -> bytes | None:
    """Return a short file's content; note why there is none."""
    try:
        # Neither a pipe nor a device, which might never end.
        found = "is not a file" if path.exists() and not path.is_file() else ""
        if not found:
            with path.open("rb") as file:
                data = file.read(MAX_SPEC_BYTES + 1)
            if len(data) <= MAX_SPEC_BYTES:
                return data
            found = f"has more than {MAX_SPEC_BYTES} bytes"
    except OSError as error:
        found = f"cannot be read: {error.strerror}"
    except ValueError:
        found = "has a path that is not one"
    problems.add(of or name, line, f"names {shown(name)}, which {found}" if of else found)
    return None


def _add(
    problems: ProblemList, file: str, model: type[BaseModel], error: ErrorDetails, lines: Mapping[Place, int]
) -> None:
    place = tuple(part for part in error["loc"] if not _is_branch(part))
    line = line_of(place, lines)
    where = ".".join(map(str, place))
    if error["type"] == "extra_forbidden":
        known = _keys(model, place[:-1])
        # The closest first, then all of them.
        close = difflib.get_close_matches(str(place[-1]), known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        problems.add(file, line, f"has the unknown key {shown(where)}{hint}", ", ".join(known))
    elif error["type"] == "missing":
        problems.add(file, line, f"has no {where!r}, which is needed")
    elif error["type"] == "value_error":
        problems.add(file, line, f"{where + ' ' if where else ''}{error['msg'].removeprefix('Value error, ')}")
    else:
        problems.add(file, line, f"has {where} {shown(error['input'])}", _accepted(error["msg"]))


def _accepted(message: str) -> str:
    return message.removeprefix("Input should be ").removeprefix("a valid ").replace("String should", "a text should")


def _is_branch(part: str | int) -> bool:
    """Return whether a part of an error's place is pydantic's name of a union's branch, which no YAML has."""
    return isinstance(part, str) and (any(sign in part for sign in "[(") or part in _BRANCHES)


def line_of(place: Place, lines: Mapping[Place, int]) -> int:
    """Return the line of a place, or of the closest thing around it; the first if there is none."""
    while place and place not in lines:
        place = place[:-1]
    return lines.get(place, 1)


def _keys(model: type[BaseModel], place: Place) -> list[str]:
    """Return the keys that are accepted at a place."""
    for part in place:
        field = model.model_fields.get(str(part))
        inner = None if field is None else _model_of(field.annotation)
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _model_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return next(filter(None, map(_model_of, typing.get_args(annotation))), None)
    return None
