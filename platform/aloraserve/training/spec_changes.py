"""Changes to a spec from the command line: ``training.epochs=2``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml
from pydantic import ValidationError

from aloraserve.errors import TrainingError
from aloraserve.training.spec import TrainingSpec

_PARTS = ("training", "lora")


def changed_spec(spec: TrainingSpec, changes: Iterable[str]) -> TrainingSpec:
    """Return a spec with other values of some keys of ``training`` and ``lora``.

    Args:
        spec: to change.
        changes: ``part.key=value``, the value in YAML.

    Raises:
        TrainingError: a change names no such key, or a value that is not accepted.
    """
    for change in changes:
        spec = _changed(spec, change)
    return spec


def _changed(spec: TrainingSpec, change: str) -> TrainingSpec:
    place, equals, text = change.partition("=")
    part, _, key = place.strip().partition(".")
    model: Any = getattr(spec, part) if part in _PARTS else None
    if not equals or model is None or key not in type(model).model_fields:
        known = ", ".join(f"{name}.{field}" for name in _PARTS for field in type(getattr(spec, name)).model_fields)
        raise TrainingError(f"--set {change!r} names no key; accepted: {known}, each with =value")
    try:
        value = yaml.safe_load(text)
        new = type(model).model_validate(model.model_dump() | {key: value})
    except (ValidationError, yaml.YAMLError) as error:
        found = (
            error.errors()[0]["msg"].removeprefix("Value error, ")
            if isinstance(error, ValidationError)
            else "it is not YAML"
        )
        raise TrainingError(f"--set {change!r} is not accepted: {found}") from None
    return spec.model_copy(update={part: new})
