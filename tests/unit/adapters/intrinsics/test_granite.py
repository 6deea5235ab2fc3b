"""``io.yaml`` files as specs: those of libraries are read, what nobody could answer by is refused by name."""

from __future__ import annotations

import random
from typing import Any

import pytest
import yaml
from granite_common.intrinsics import IntrinsicsResultProcessor, IntrinsicsRewriter
from support.io_yaml import ANSWERABILITY, HALLUCINATION, LIBRARY, REQUIREMENT_CHECK, UNCERTAINTY

from aloraserve.adapters.intrinsics import JsonForm, read_intrinsic
from aloraserve.errors import InvalidAdapterError

CASES = 10_000


def changed(io_yaml: bytes, **fields: Any) -> bytes:
    return yaml.safe_dump(yaml.safe_load(io_yaml) | fields).encode()


@pytest.mark.parametrize("name", LIBRARY)
def test_a_library_s_spec_is_read_and_is_hashable(name: str) -> None:
    spec = read_intrinsic(LIBRARY[name])
    assert spec is not None
    assert isinstance(spec.form, JsonForm)
    assert spec.form.config == LIBRARY[name].decode()
    assert hash(spec) == hash(read_intrinsic(LIBRARY[name]))


def test_fields_parameters_and_places_are_those_of_the_file() -> None:
    check = read_intrinsic(REQUIREMENT_CHECK)
    assert check is not None
    assert (check.fields, check.parameters.max_tokens, check.parameters.temperature) == (("requirement",), 20, 0.0)
    assert (check.needs_logprobs, check.gives_probability, check.documents) == (True, True, "template")
    hallucination = read_intrinsic(HALLUCINATION)
    assert hallucination is not None
    assert hallucination.sentences == (("documents", "c"), ("last_message", "i"))
    assert hallucination.documents == "json"


@pytest.mark.parametrize(
    ("io_yaml", "named"),
    [
        (b"", "NoneType; a mapping"),
        (b"- a", "list; a mapping"),
        (b"\xff\xfe", "not UTF-8 at byte 0"),
        (b"model: [", "not valid YAML"),
        (b"model: ~", "has no 'response_format'"),
        (b"!!python/object/apply:os.system ['true']", "not valid YAML"),
        (b"a: &a [x]\nb: *a", "aliases are not accepted"),
        (b"model: ~\nmodel: ~\nresponse_format: ~\ntransformations: ~", "a key twice"),
        (b"model: 2024-01-01\nresponse_format: ~\ntransformations: ~", "datetime.date"),
        (b"model: ~\nresponse_format: ~\ntransformations: ~\nparameters: {temperature: .nan}", "nan"),
        (b"a: " + b"[" * 5000, "nested too deeply"),
        (b"a: '" + b"x" * 200_000 + b"'", "at most 131072"),
        (changed(UNCERTAINTY, secret=1), "has 'secret'; accepted are model,"),
        (changed(UNCERTAINTY, model=7), "model 7; a text or null"),
        (changed(UNCERTAINTY, response_format="{"), "response_format is not JSON"),
        (changed(UNCERTAINTY, response_format="[]"), "a JSON schema"),
        (changed(UNCERTAINTY, response_format='{"type": "digit"}'), "is not a JSON schema"),
        (changed(UNCERTAINTY, response_format='{"$ref": "http://10.0.0.1/x"}'), "references within it"),
        (changed(UNCERTAINTY, parameters={"n": 3}), "has 'n'; accepted are max_completion_tokens"),
        (changed(UNCERTAINTY, parameters={"temperature": "hot"}), "temperature 'hot'; a number from 0 to 2"),
        (changed(UNCERTAINTY, parameters={"max_completion_tokens": 10**6}), "a whole number from 1 to 4096"),
        (changed(UNCERTAINTY, parameters={"max_completion_tokens": True}), "a whole number from 1 to 4096"),
        (changed(UNCERTAINTY, parameters=[1]), "parameters is [1]; a mapping"),
        (changed(UNCERTAINTY, docs_as_message="xml"), "docs_as_message 'xml'; string, json, roles"),
        (changed(HALLUCINATION, docs_as_message="string"), "decode_sentences with docs_as_message"),
        (changed(HALLUCINATION, sentence_boundaries={"all_but_last_message": "h"}), "last_message or documents"),
        (changed(HALLUCINATION, sentence_boundaries={"documents": "c"}), "a location of sentence_boundaries"),
        (changed(HALLUCINATION, sentence_boundaries={"last_message": "<"}), "1 to 8 letters"),
        (changed(REQUIREMENT_CHECK, instruction="{0}"), "field '0'"),
        (changed(REQUIREMENT_CHECK, instruction="{x.__class__}"), "field 'x.__class__'"),
        (changed(REQUIREMENT_CHECK, instruction="{x:>99999999}"), "field 'x'"),
        (changed(REQUIREMENT_CHECK, instruction="{x!r}"), "field 'x'"),
        (changed(REQUIREMENT_CHECK, instruction="{x"), "is not a template"),
        (changed(REQUIREMENT_CHECK, instruction="x" * 20_000), "at most 16384"),
        (changed(UNCERTAINTY, transformations="likelihood"), "a list of at most 16"),
        (changed(UNCERTAINTY, transformations=[{"type": "eval", "input_path": []}]), "type 'eval'; likelihood,"),
        (
            changed(UNCERTAINTY, transformations=[{"type": "nest", "input_path": [1.5], "field_name": "x"}]),
            "input_path",
        ),
        (changed(UNCERTAINTY, transformations=[{"type": "nest", "input_path": []}]), "field_name None"),
        (
            changed(UNCERTAINTY, transformations=[{"type": "nest", "input_path": [], "field_name": "x", "y": 1}]),
            "argument 'y'",
        ),
        (ANSWERABILITY.replace(b'"answerable": 1.0', b"yes: 1.0"), "a quoted text"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_name_and_what_is_accepted(io_yaml: bytes, named: str) -> None:
    with pytest.raises(InvalidAdapterError) as refused:
        read_intrinsic(io_yaml)
    assert named in refused.value.message
    assert len(refused.value.message) < 400


def test_no_file_that_is_damaged_at_random_does_more_than_be_refused() -> None:
    """What is accepted, the kept package accepts too; each of the others is an InvalidAdapterError."""
    chance = random.Random(16)
    originals = [ANSWERABILITY, UNCERTAINTY, REQUIREMENT_CHECK, REQUIREMENT_CHECK, UNCERTAINTY, HALLUCINATION]
    accepted = 0
    for _ in range(CASES):
        damaged = _damaged(bytearray(chance.choice(originals)), chance)
        try:
            spec = read_intrinsic(damaged)
        except InvalidAdapterError:
            continue
        accepted += 1
        if accepted % 10 == 0:
            assert spec is not None
            _check_with_granite(damaged)
    assert 100 < accepted < CASES


def _damaged(text: bytearray, chance: random.Random) -> bytes:
    pieces = [
        b"{",
        b"}",
        b"[",
        b"]",
        b": ",
        b"- ",
        b"~",
        b"&a ",
        b"*a",
        b"!!",
        b"\x00",
        b"\n",
        b"'",
        b'"',
        b"99e99",
        b"\xc3",
    ]
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(text))
        kind = chance.randrange(4)
        if kind == 0:
            del text[at : at + chance.randint(1, 40)]
        elif kind == 1:
            text[at:at] = chance.choice(pieces)
        elif kind == 2:
            text[at] = chance.randrange(256)
        else:
            start = chance.randrange(len(text))
            text[at:at] = text[start : start + chance.randint(1, 60)]
        if not text:
            break
    return bytes(text)


def _check_with_granite(io_yaml: bytes) -> None:
    config = {name: value for name, value in yaml.safe_load(io_yaml).items() if name != "name"}
    IntrinsicsResultProcessor(config_dict=config)
    IntrinsicsRewriter(config_dict=config)
