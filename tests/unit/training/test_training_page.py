"""The page on training lists every key of a spec as the model has it, and its example is accepted."""

import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from aloraserve.training import TrainingSpec

PAGE = Path(__file__).parents[3] / "docs" / "howto" / "training.md"
BOUNDS = (("gt", "above {}"), ("ge", "{} or more"), ("lt", "below {}"), ("le", "{} or less"))


def keys(model: type[BaseModel], before: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        yield before + name, field
        parts = [part for part in (field.annotation, *get_args(field.annotation)) if isinstance(part, type)]
        inner = next((part for part in parts if issubclass(part, BaseModel)), None)
        # A twin's keys are those of `lora` and `training`.
        if inner is not None and not name.startswith("twin_"):
            yield from keys(inner, f"{before}{name}.")


def accepted(field: FieldInfo) -> str:
    annotation = field.annotation
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    data = [*field.metadata, *(each for part in parts for each in getattr(part, "__metadata__", ()))]
    parts = tuple(get_args(part)[0] if hasattr(part, "__metadata__") else part for part in parts)
    for part in parts:
        if get_origin(part) is Literal:
            return ", ".join(f"`{value}`" for value in get_args(part))
        if isinstance(part, type) and issubclass(part, StrEnum):
            return ", ".join(f"`{member.value}`" for member in part)
    if annotation is bool:
        return "`true`, `false`"
    data += [each for info in data if isinstance(info, FieldInfo) for each in info.metadata]
    found = {name: getattr(each, name) for each in data for name, _ in BOUNDS if hasattr(each, name)}
    return ", ".join(text.format(f"{found[name]:,}") for name, text in BOUNDS if name in found)


def default(field: FieldInfo) -> str:
    value: Any = field.default
    if field.is_required():
        return "needed"
    if value is None or value in ("", ()) or isinstance(value, BaseModel):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{', '.join(value) if isinstance(value, tuple) else value}`"


def table() -> str:
    rows = (
        f"| `{name}` | {default(field)} | {accepted(field)} | {field.description or ''} |"
        for name, field in keys(TrainingSpec)
    )
    return "| key | default | accepted | |\n|---|---|---|---|\n" + "\n".join(rows)


def test_every_key_is_listed_as_the_model_has_it() -> None:
    assert table().replace("|  |", "| |").replace("|  |", "| |") in PAGE.read_text("utf-8")


def test_the_example_is_accepted(tmp_path: Path) -> None:
    [example] = re.findall(r"```yaml\n(name: .*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    (tmp_path / "spec.yaml").write_text(example)
    assert TrainingSpec.read(tmp_path / "spec.yaml").intrinsic_spec() is not None
