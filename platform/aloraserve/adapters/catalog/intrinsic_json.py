"""An intrinsic's description as JSON types, so that the catalog says it without the adapter's files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

import msgspec

from aloraserve.adapters.intrinsics.spec import ChoiceForm, IntrinsicSpec, OutputForm

_FORMS = {form.__name__: form for form in get_args(OutputForm)}


def intrinsic_to_json(spec: IntrinsicSpec) -> dict[str, Any]:
    """Return a description as JSON types, its form's name with it."""
    found: dict[str, Any] = msgspec.to_builtins(spec)
    return found | {"form": found["form"] | {"type": type(spec.form).__name__}}


def intrinsic_from_json(content: Mapping[str, Any]) -> IntrinsicSpec:
    """Return what :func:`intrinsic_to_json` made JSON types of.

    Raises:
        ValueError: it is not that.
    """
    given = dict(content)
    form = given.pop("form", None)
    kind = _FORMS.get(form.get("type", "")) if isinstance(form, dict) else None
    if kind is None:
        raise ValueError(f"the form of an intrinsic is not one of {', '.join(_FORMS)}")
    spec = msgspec.convert(given, IntrinsicSpec)
    return replace(spec, form=msgspec.convert(form, kind))


def input_of(spec: IntrinsicSpec | None) -> str:
    """Return what a call gives an adapter, for people."""
    if spec is None:
        return "conversation"
    documents = "" if spec.documents == "template" else f", documents as {spec.documents}"
    fields = f", fields {', '.join(spec.fields)}" if spec.fields else ""
    return f"conversation{documents}{fields}"


def output_of(spec: IntrinsicSpec | None) -> str:
    """Return what an adapter answers, for people."""
    form = None if spec is None else spec.form
    if isinstance(form, ChoiceForm):
        return f"{form.kind}: {', '.join(form.choices)}"
    return "text" if form is None else type(form).__name__.removesuffix("Form").lower()
