"""Intrinsics as the catalog keeps them: what comes back is what went in, whatever the form."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from aloraserve.adapters.catalog.intrinsic_json import intrinsic_from_json, intrinsic_to_json
from aloraserve.adapters.intrinsics.spec import (
    ChoiceForm,
    GuardRule,
    IntrinsicParameters,
    IntrinsicSpec,
    JsonForm,
    OutputForm,
    RegexForm,
    TextForm,
)

SPEC = IntrinsicSpec(
    instruction="Is {last_message} about {topic}?",
    fields=("topic",),
    parameters=IntrinsicParameters(max_tokens=3, top_p=0.5, stop=("x",)),
    documents="roles",
    sentences=(("documents", "c"),),
    guard=GuardRule(0.25, "below"),
    uses_logprob_text=True,
)


@pytest.mark.parametrize(
    "form",
    [
        TextForm(),
        ChoiceForm(("0", "1"), (0.05, 0.95), "digit"),
        RegexForm("[a-z]+"),
        JsonForm('{"type": "string"}', "{}", has_likelihood=True),
    ],
)
def test_every_form_comes_back_as_it_was(form: OutputForm) -> None:
    for spec in (replace(SPEC, form=form), IntrinsicSpec(form=form)):
        assert intrinsic_from_json(json.loads(json.dumps(intrinsic_to_json(spec)))) == spec


@pytest.mark.parametrize("form", [None, {}, {"type": "OtherForm"}, {"type": "ChoiceForm"}, "TextForm"])
def test_what_is_no_form_is_refused(form: object) -> None:
    with pytest.raises(ValueError, match=r"form|choices"):
        intrinsic_from_json({**intrinsic_to_json(SPEC), "form": form})
