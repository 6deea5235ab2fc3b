"""An intrinsic's description as JSON types, so that the catalog says it without the adapter's files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields, make_dataclass
from typing import Any, get_args, get_type_hints

import msgspec

from aloraserve.adapters.intrinsics.spec import ChoiceForm, IntrinsicSpec, OutputForm

_FORMS = {form.__name__: form for form in get_args(OutputForm)}
_HINTS = get_type_hints(IntrinsicSpec)
_REST = [
    (each.name, _HINTS[each.name], field(default=each.default)) for each in fields(IntrinsicSpec) if each.name != "form"
]
_Rest = make_dataclass("IntrinsicSpec", _REST, kw_only=True)
"""A description without its form: msgspec reads no union of dataclasses."""


def intrinsic_to_json(spec: IntrinsicSpec) -> dict[str, Any]:
    """Return a description as JSON types, its form's name with it."""
    # Lists in place of tuples: it equals what is read back.
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(spec))
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
    rest: object = msgspec.convert(given, _Rest)
    return IntrinsicSpec(form=msgspec.convert(form, kind), **vars(rest))


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
