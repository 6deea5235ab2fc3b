"""Answers in a form: they have it, differ by prompt, end by themselves, and their log-probabilities make sense."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from aloraserve.serving.engine_messages import EngineChunk
from aloraserve.wire.sampling import SamplingSettings
from aloraserve.wire.structured import StructuredOutput
from aloraserve_services.engine.simulated.answer_words import AnswerWords
from aloraserve_services.engine.simulated.answer_writer import AnswerWriter
from aloraserve_services.engine.simulated.structured_answers import StructuredAnswers

SCORE = {"type": "integer", "minimum": 0, "maximum": 9}
VERDICT = {
    "type": "object",
    "properties": {
        "answer": {"type": "string", "enum": ["yes", "no", "maybe"]},
        "score": SCORE,
        "reasons": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
    },
    "required": ["answer", "score", "reasons"],
    "additionalProperties": False,
}
SCHEMAS: dict[str, Any] = {
    "score": SCORE,
    "digit": {"enum": list(range(10))},
    "yes or no": {"enum": ["yes", "no"]},
    "boolean": {"type": "boolean"},
    "number": {"type": "number"},
    "text": {"type": "string", "minLength": 1},
    "date": {"type": "string", "format": "date"},
    "verdict": VERDICT,
    "list": {"type": "array", "items": VERDICT, "minItems": 1},
    "any object": {"type": "object"},
    "reference": {"$defs": {"v": VERDICT}, "type": "object", "properties": {"v": {"$ref": "#/$defs/v"}}},
}


@pytest.fixture(scope="module")
def words(model_path: Path) -> AnswerWords:
    return AnswerWords.read(model_path)


@pytest.fixture(scope="module")
def answers(model_path: Path, words: AnswerWords) -> StructuredAnswers:
    return StructuredAnswers(model_path / "tokenizer.json", words)


def written(
    answers: StructuredAnswers, words: AnswerWords, form: StructuredOutput, prompt: int = 0, **sampling: Any
) -> EngineChunk:
    """Return a whole answer as one chunk."""
    settings = SamplingSettings(structured=form, **({"max_tokens": 200} | sampling))
    [answer] = answers.answers(form, [words.answer([prompt], None, 0)], settings)
    [chunk] = AnswerWriter(0, answer, settings).write(1000)
    return chunk


@pytest.mark.parametrize("name", SCHEMAS)
def test_an_answer_has_its_schema_and_ends_by_itself(answers: StructuredAnswers, words: AnswerWords, name: str) -> None:
    form = StructuredOutput("json", json.dumps(SCHEMAS[name]))
    for prompt in range(5):
        chunk = written(answers, words, form, prompt)
        jsonschema.validate(json.loads(chunk.text), SCHEMAS[name])
        assert chunk.finish_reason == "stop"


def test_answers_of_other_prompts_differ(answers: StructuredAnswers, words: AnswerWords) -> None:
    form = StructuredOutput("json", json.dumps(SCORE))
    texts = [written(answers, words, form, prompt).text for prompt in range(40)]
    assert set(texts) == set("0123456789")
    assert texts[0] == written(answers, words, form, 0).text


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        (StructuredOutput("regex", r"\d{4}-\d{2}"), r"\d{4}-\d{2}"),
        (StructuredOutput("regex", r"[YN]"), r"[YN]"),
        (StructuredOutput("choice", choices=("very sure", 'a "guess"', "é")), 'very sure|a "guess"|é'),
        (StructuredOutput("grammar", 'start: "a" ("b" | "c")+'), "a[bc]+"),
        (StructuredOutput("grammar", 'root ::= "yes" | "no"'), "yes|no"),
    ],
)
def test_other_forms_hold_as_well(
    answers: StructuredAnswers, words: AnswerWords, form: StructuredOutput, pattern: str
) -> None:
    for prompt in range(5):
        assert re.fullmatch(pattern, written(answers, words, form, prompt).text)


def test_an_answer_that_has_no_room_is_cut_as_engines_do(answers: StructuredAnswers, words: AnswerWords) -> None:
    chunk = written(answers, words, StructuredOutput("json", json.dumps(VERDICT)), max_tokens=4)
    assert (chunk.tokens, chunk.finish_reason) == (4, "length")


def test_tokens_join_to_the_text_and_their_chances_make_sense(answers: StructuredAnswers, words: AnswerWords) -> None:
    chunk = written(answers, words, StructuredOutput("json", json.dumps(VERDICT)), logprobs=5)
    assert "".join(token.chosen.token for token in chunk.logprobs) == chunk.text
    assert len(chunk.logprobs) == chunk.tokens
    for token in chunk.logprobs:
        assert len(token.alternatives) == 5
        assert token.alternatives[0] == token.chosen
        assert sum(math.exp(other.logprob) for other in token.alternatives) <= 1.0001


def test_the_other_answers_are_the_alternatives_where_the_answers_part(
    answers: StructuredAnswers, words: AnswerWords
) -> None:
    chunk = written(answers, words, StructuredOutput("json", json.dumps(SCHEMAS["yes or no"])), logprobs=2)
    [parting] = [token for token in chunk.logprobs if token.chosen.token in ("yes", "no")]
    assert {other.token for other in parting.alternatives} == {"yes", "no"}
    assert sum(math.exp(other.logprob) for other in parting.alternatives) == pytest.approx(1)


def test_an_object_ends_when_it_has_what_it_must_have(answers: StructuredAnswers, words: AnswerWords) -> None:
    """So it has room in a short answer, although its schema allows more properties."""
    form = StructuredOutput(
        "json", json.dumps({"type": "object", "properties": {"count": SCORE}, "required": ["count"]})
    )
    for prompt in range(10):
        chunk = written(answers, words, form, prompt, max_tokens=8)
        assert (json.loads(chunk.text).keys(), chunk.finish_reason) == ({"count"}, "stop")


def test_what_cannot_be_compiled_is_an_error(answers: StructuredAnswers, words: AnswerWords) -> None:
    with pytest.raises(ValueError, match="strin"):
        written(answers, words, StructuredOutput("json", '{"type": "strin"}'))


@pytest.mark.parametrize(
    "form",
    [
        StructuredOutput("json", '{"$ref": "#"}'),
        StructuredOutput("grammar", "start: start"),
        StructuredOutput("grammar", 'start: "a" b\nb: b'),
        StructuredOutput("regex", r"a[^\x00-\U0010FFFF]"),
    ],
)
def test_what_no_text_has_is_an_error(answers: StructuredAnswers, words: AnswerWords, form: StructuredOutput) -> None:
    with pytest.raises(ValueError, match="no text has this form"):
        written(answers, words, form)
