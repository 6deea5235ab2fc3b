"""An intrinsic whose form no engine can hold an answer to is not served, rather than refused at each call."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.peft_adapters import BASE, write_peft_adapter

from aloraserve.adapters import AdapterReader
from aloraserve.adapters.intrinsics import IntrinsicSpec
from aloraserve.adapters.intrinsics.spec import ChoiceForm, JsonForm, RegexForm, TextForm
from aloraserve.adapters.problems import ProblemCode
from aloraserve.serving.intrinsics.form_check import form_fault

USABLE = [
    TextForm(),
    ChoiceForm(("Y", "N"), kind="yes_no"),
    RegexForm("[0-9]{1,3} %"),
    JsonForm('{"type": "object", "properties": {"score": {"type": "number"}}}'),
]
UNUSABLE = [
    RegexForm("(a{1000}){1000}"),
    JsonForm('{"$ref": "#"}'),
    JsonForm('{"type": "array", "items": {"not": {}}}'),
]


@pytest.mark.parametrize("form", USABLE, ids=repr)
def test_a_form_that_engines_take_has_no_fault(form: TextForm | ChoiceForm | RegexForm | JsonForm) -> None:
    assert form_fault(IntrinsicSpec(form=form)) == ""


@pytest.mark.parametrize("form", UNUSABLE, ids=repr)
def test_one_that_they_do_not_has_one(form: RegexForm | JsonForm) -> None:
    assert form_fault(IntrinsicSpec(form=form))


def test_it_is_one_of_an_adapters_problems(tmp_path: Path) -> None:
    folder = write_peft_adapter(tmp_path / "safety", bias="all")
    output = {"form": "regex", "pattern": "(a{1000}){1000}"}
    (folder / "aloraserve.json").write_text(json.dumps({"intrinsic": {"output": output}}))
    report = AdapterReader(BASE, form_fault=form_fault).check(folder)
    assert {problem.code for problem in report.problems} == {ProblemCode.CONFIG, ProblemCode.INTRINSIC}
    assert "the intrinsic's form cannot be used" in report.reason
    assert ProblemCode.INTRINSIC not in {problem.code for problem in AdapterReader(BASE).check(folder).problems}
