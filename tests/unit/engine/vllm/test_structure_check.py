"""Forms are compiled with the model's vocabulary before an engine gets a call."""

from __future__ import annotations

import json

import pytest
from support.small_tokenizers import small_tokenizer
from tokenizers import decoders

from aloraserve.wire.structured import StructuredOutput
from aloraserve_services.engine.vllm.structure_check import StructureCheck

TOO_MANY = {"anyOf": [{"type": "object", "properties": {f"p{i}": {"type": "integer"}}} for i in range(500)]}


@pytest.fixture(scope="module")
def check() -> StructureCheck:
    tokenizer = small_tokenizer("byte-level")
    tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()
    return StructureCheck(tokenizer)


@pytest.mark.parametrize(
    ("form", "fault"),
    [
        (None, ""),
        (StructuredOutput("json", '{"type": "integer"}'), ""),
        (StructuredOutput("choice", choices=("a", "b")), ""),
        (StructuredOutput("json", '{"type": "strin"}'), "Invalid type: strin"),
        (StructuredOutput("json", json.dumps(TOO_MANY)), "max is 2000"),
        (StructuredOutput("regex", "(a"), "unclosed group"),
        (StructuredOutput("json", '{"$ref": "#"}'), "no text has this form"),
        (StructuredOutput("grammar", "start: start"), "no text has this form"),
    ],
)
async def test_what_cannot_be_followed_is_said(
    check: StructureCheck, form: StructuredOutput | None, fault: str
) -> None:
    for _ in range(2):
        found = await check.fault(form)
        assert fault in found
        assert bool(found) == bool(fault)
