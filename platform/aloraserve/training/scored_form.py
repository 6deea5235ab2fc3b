"""Scoring of answers in an intrinsic's form: which labels there are, and what number each stands for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from aloraserve.adapters.intrinsics import ChoiceForm, IntrinsicSpec, JsonForm

FormKind = Literal["choice", "digit", "text"]


@dataclass(frozen=True, slots=True)
class ScoredForm:
    """The labels of a form.

    Args:
        kind: choices are right or wrong, digits also near or far, texts overlap more or less.
        labels: all that are possible, as the model writes them; empty for texts.
        numbers: what each stands for, from 0 to 1, for calibration; empty if they stand for nothing.
    """

    kind: FormKind
    labels: tuple[str, ...] = ()
    numbers: tuple[float, ...] = ()

    @classmethod
    def of(cls, spec: IntrinsicSpec | None) -> ScoredForm:
        """Return how an intrinsic's answers are scored; those of JSON with a few possible texts are choices too."""
        form = None if spec is None else spec.form
        if isinstance(form, ChoiceForm):
            return cls("digit" if form.kind == "digit" else "choice", form.choices, form.numbers)
        if isinstance(form, JsonForm) and (labels := _enumerated(form)):
            return cls("choice", labels, _likelihoods(form, labels))
        return cls("text")

    def label(self, text: str | None) -> str | None:
        """Return the label that a text is, None if it is none; a text that is free is its own."""
        if text is None or self.kind == "text":
            return None if text is None else text.strip()
        text = text.strip()
        return text if text in self.labels else None

    def number(self, label: str | None) -> float | None:
        """Return what a label stands for, None if nothing."""
        return self.numbers[self.labels.index(label)] if self.numbers and label in self.labels else None

    @property
    def words(self) -> str:
        """The form in words, for a model that is told it."""
        if self.kind == "digit":
            return "one digit from 0 to 9"
        if self.kind == "text":
            return "the text alone"
        return f"{', '.join(self.labels[:-1])} or {self.labels[-1]}"


def _enumerated(form: JsonForm) -> tuple[str, ...]:
    """Return the texts that a schema lists, as JSON; empty if it is of another kind."""
    schema: Any = json.loads(form.schema) if form.schema else {}
    values = schema.get("enum") if isinstance(schema, dict) else None
    return tuple(json.dumps(value, ensure_ascii=False) for value in values) if isinstance(values, list) else ()


def _likelihoods(form: JsonForm, labels: tuple[str, ...]) -> tuple[float, ...]:
    """Return the numbers that granite-common's ``likelihood`` gives to each label; empty without."""
    # It was checked when the adapter was read.
    config: Any = yaml.safe_load(form.config) if form.config else {}
    for step in config.get("transformations") or ():
        if step.get("type") == "likelihood":
            given: Mapping[Any, Any] = step.get("categories_to_values") or {}
            numbers = [given.get(json.loads(label)) for label in labels]
            return tuple(float(number) for number in numbers if number is not None) if None not in numbers else ()
    return ()
