"""Rows for the uncertainty intrinsic: how often is the base model right about a question of this kind, from 0 to 9?

The target is the base model's own rate of right answers, of :data:`SAMPLES` at temperature 1, to a question that can
be checked; digit d stands for 0.05 + d / 10. The conversation holds one of these answers (arXiv 2504.12397, section 4:
"the probability that the model's answer is correct").
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Protocol

from aloraserve.errors import SettingsError
from aloraserve_services.intrinsics.draw import Draw
from aloraserve_services.intrinsics.questions import Question, QuestionSource
from aloraserve_services.intrinsics.row import BuiltRow, Part
from aloraserve_services.intrinsics.texts import read_texts

SAMPLES = 8
QUESTIONS = {Part.TRAIN: 1000, Part.VALIDATION: 100, Part.TEST: 250}
"""Questions of which the package has samples, for seed 0 and SmolLM2-135M-Instruct."""
SHIPPED = "uncertainty-smollm2-135m-instruct.jsonl.gz"
_SILENCE = "I do not know."
_BATCH = 16


class Sampler(Protocol):
    """The base model, as a source of answers."""

    def answers(self, chats: Sequence[list[dict[str, str]]], count: int) -> list[list[str]]:
        """Return so many answers to each conversation."""


@dataclass(frozen=True, slots=True)
class AskedQuestion:
    """A question as it is asked.

    Args:
        system: the system message.
        question: that can be checked.
    """

    system: str
    question: Question


@dataclass(frozen=True, slots=True)
class Sample:
    """The base model's answers to a question.

    Args:
        system: the system message.
        question: its text.
        answer: one of the answers.
        right: how many of them were.
        count: of the answers.
    """

    system: str
    question: str
    answer: str
    right: int
    count: int

    @property
    def digit(self) -> str:
        """The rate of right answers as a digit; neither 0 nor 1 is certain after so few."""
        return str(int(10 * (self.right + 0.5) / (self.count + 1)))


def asked_questions(seed: int, part: Part, count: int) -> list[AskedQuestion]:
    """Return so many different questions for a part."""
    source, draw = QuestionSource(seed, part), Draw("uncertainty", seed, part)
    systems: list[str] = read_texts("questions")["systems"]
    asked: dict[str, AskedQuestion] = {}
    for _ in range(20 * count):
        question = source.question()
        if question.text not in asked:
            asked[question.text] = AskedQuestion(draw.pick(systems), question)
        if len(asked) == count:
            return list(asked.values())
    raise SettingsError(f"there are only {len(asked)} different questions for {part}, not {count}")


def sample(asked: Sequence[AskedQuestion], sampler: Sampler) -> Iterator[Sample]:
    """Yield what the base model answers to each question."""
    for at in range(0, len(asked), _BATCH):
        batch = asked[at : at + _BATCH]
        chats = [[_message("system", each.system), _message("user", each.question.text)] for each in batch]
        for each, answers in zip(batch, sampler.answers(chats, SAMPLES), strict=True):
            right = sum(map(each.question.is_right, answers))
            yield Sample(each.system, each.question.text, answers[0], right, len(answers))


def shipped_samples() -> list[Sample]:
    """Return the samples that the package has."""
    packed = files("aloraserve_services.intrinsics").joinpath("samples", SHIPPED).read_bytes()
    return [Sample(**json.loads(line)) for line in gzip.decompress(packed).decode().splitlines()]


class UncertaintyBuilder:
    """Builds conversations in which the base model answered a question that can be checked.

    Args:
        seed: equal seeds give equal questions.
        part: that they are for.
        samples: of the base model's answers; those that the package has if they are not given.
    """

    def __init__(self, seed: int, part: Part, samples: Iterable[Sample] | None = None) -> None:
        self._seed = seed
        self._part = part
        found = shipped_samples() if samples is None else samples
        self._samples = {(sample.system, sample.question): sample for sample in found}

    def rows(self, count: int) -> Iterator[BuiltRow]:
        """Yield so many rows.

        Raises:
            SettingsError: there are no samples for one of them.
        """
        for number, asked in enumerate(asked_questions(self._seed, self._part, count)):
            found = self._samples.get((asked.system, asked.question.text))
            if found is None:
                raise SettingsError(
                    f"there is no sample of the base model's answers to question {number} of seed {self._seed} "
                    f"({self._part}): sample them with --base FOLDER, or build at most "
                    f"{QUESTIONS[self._part]} rows with seed 0"
                )
            answer = found.answer or _SILENCE
            yield BuiltRow(
                f"uncertainty-{self._part}-{number}",
                (("system", found.system), ("user", found.question), ("assistant", answer)),
                found.digit,
                family=asked.question.family,
                extra={"right": asked.question.is_right(answer)},
            )


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
