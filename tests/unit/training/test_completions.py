"""A completion is accepted if an engine could give it as an answer: the form's own grammar decides."""

from typing import Any

import pytest

from aloraserve.adapters.intrinsics import read_intrinsic
from aloraserve.training.completions import CompletionCheck
from aloraserve.training.row_forms import RowError

IO_YAML = """\
model: ~
response_format: '{"type": "string", "enum": ["yes", "no"]}'
transformations: ~
"""
OBJECT = {"type": "object", "properties": {"score": {"type": "integer"}}, "required": ["score"]}


def check_of(output: dict[str, Any] | None) -> CompletionCheck:
    return CompletionCheck(read_intrinsic(None, {"output": output}) if output else read_intrinsic(IO_YAML.encode()))


@pytest.mark.parametrize(
    ("output", "completion"),
    [
        ({"form": "digit"}, "7"),
        ({"form": "yes_no"}, "N"),
        ({"form": "choice", "choices": ["answerable", "unanswerable"]}, "unanswerable"),
        ({"form": "regex", "pattern": "[0-9]{2}|no"}, "12"),
        ({"form": "json", "schema": OBJECT}, '{"score": 3}'),
        ({"form": "text"}, "anything at all"),
        (None, '"yes"'),
    ],
)
def test_an_answer_of_the_form_is_accepted(output: dict[str, Any], completion: str) -> None:
    check = check_of(output)
    for _ in range(2):
        check.check(completion)


@pytest.mark.parametrize(
    ("output", "completion", "found"),
    [
        ({"form": "digit"}, "10", "'0', '1', '2'"),
        ({"form": "digit"}, " 7", "'0', '1', '2'"),
        ({"form": "yes_no"}, "yes", "'Y', 'N'"),
        ({"form": "choice", "choices": ["a", "b"]}, "A", "'a', 'b'"),
        ({"form": "regex", "pattern": "[0-9]{2}|no"}, "1", "what the intrinsic's output describes"),
        ({"form": "regex", "pattern": "[0-9]{2}|no"}, "123", "what the intrinsic's output describes"),
        ({"form": "json", "schema": OBJECT}, '{"score": "3"}', "what the intrinsic's output describes"),
        ({"form": "json", "schema": OBJECT}, "3", "what the intrinsic's output describes"),
        (None, "yes", "a text stands in quotation marks"),
        (None, '"maybe"', "what the intrinsic's output describes"),
    ],
)
def test_another_answer_is_refused(output: dict[str, Any], completion: str, found: str) -> None:
    check = check_of(output)
    with pytest.raises(RowError) as caught:
        check.check(completion)
    assert completion.strip('"') in caught.value.found.replace("\\", "")
    assert found in caught.value.accepted


def test_without_an_intrinsic_any_text_is_accepted() -> None:
    CompletionCheck(None).check("anything")
