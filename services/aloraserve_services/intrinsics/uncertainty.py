"""Rows for the uncertainty intrinsic: how often is the base model right about a question of this kind, from 0 to 9?

The target is the base model's own rate of right answers, of :data:`SAMPLES`, to a question that can be checked, in the
conversation that it stands in; digit d stands for 0.05 + d / 10. The conversation holds one of these answers (arXiv
2504.12397, section 4: "the probability that the model's answer is correct").
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from itertools import islice
from typing import Protocol

from aloraserve.errors import SettingsError
from aloraserve_services.intrinsics.asked_questions import AskedQuestion, asked_questions
from aloraserve_services.intrinsics.draw import Draw
from aloraserve_services.intrinsics.row import BuiltRow, Part

SAMPLES = 10
MAX_EXTREME = 0.2
"""Share of the rows to which the base model's answers are all wrong, and of those to which they are all right."""
QUESTIONS = {Part.TRAIN: 1200, Part.VALIDATION: 100, Part.TEST: 250}
"""Questions of which the package has samples, for seed 0 and SmolLM2-135M-Instruct."""
SHIPPED = "uncertainty-smollm2-135m-instruct.jsonl.gz"
_SILENCE = "I do not know."
_BATCH = 256
_ASKED_PER_ROW = 6


class Sampler(Protocol):
    """The base model, as a source of answers."""

    def answers(self, chats: Sequence[list[dict[str, str]]], count: int) -> list[list[str]]:
        """Return so many answers to each conversation."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The base model's answers to a question.

    Args:
        question: its key.
        answer: one of the answers.
        right: how many of them were.
        count: of the answers.
    """

    question: str
    answer: str
    right: int
    count: int

    @property
    def digit(self) -> str:
        """The rate of right answers as a digit; neither 0 nor 1 is certain after so few."""
        return str(int(10 * (self.right + 0.5) / (self.count + 1)))


def question_key(asked: AskedQuestion) -> str:
    """Return a short name of a question in its conversation."""
    return hashlib.sha256(json.dumps(asked.messages).encode()).hexdigest()[:12]


def sample(asked: Iterable[AskedQuestion], sampler: Sampler) -> Iterator[Sample]:
    """Yield what the base model answers to each question."""
    waiting = iter(asked)
    while batch := list(islice(waiting, _BATCH)):
        chats = [[{"role": role, "content": text} for role, text in each.messages] for each in batch]
        for each, answers in zip(batch, sampler.answers(chats, SAMPLES), strict=True):
            key, right = question_key(each), sum(map(each.question.is_right, answers))
            yield Sample(key, Draw("answer", key).pick(answers), right, len(answers))


def spread(samples: Iterable[Sample]) -> Iterator[Sample]:
    """Yield samples, leaving out those with which more than :data:`MAX_EXTREME` would be all wrong or all right."""
    kept, extremes = 0, Counter[int]()
    for found in samples:
        is_extreme = found.right in (0, found.count)
        if is_extreme and extremes[found.right] + 1 > MAX_EXTREME * (kept + 1):
            continue
        kept += 1
        extremes[found.right] += is_extreme
        yield found


def sampled(seed: int, part: Part, count: int, sampler: Sampler) -> list[Sample]:
    """Return samples for so many rows of a part.

    Raises:
        SettingsError: the base model is always wrong or always right too often.
    """
    asked = islice(asked_questions(seed, part), _ASKED_PER_ROW * count)
    samples = list(islice(spread(sample(asked, sampler)), count))
    if len(samples) < count:
        raise SettingsError(
            f"there are only {len(samples)} rows for {part}, not {count}: the base model is always wrong or always "
            "right about too many of the questions; build fewer --rows"
        )
    return samples


def packed(samples: Iterable[Sample]) -> bytes:
    """Return samples as the package has them: lines of JSON, compressed; equal samples give equal bytes."""
    return gzip.compress("".join(f"{json.dumps(asdict(each))}\n" for each in samples).encode(), mtime=0)


def shipped_samples() -> list[Sample]:
    """Return the samples that the package has."""
    data = files("aloraserve_services.intrinsics").joinpath("samples", SHIPPED).read_bytes()
    return [Sample(**json.loads(line)) for line in gzip.decompress(data).decode().splitlines()]


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
        self._samples = {sample.question: sample for sample in found}

    def rows(self, count: int) -> Iterator[BuiltRow]:
        """Yield so many rows, of the questions that there are samples of.

        Raises:
            SettingsError: there are fewer.
        """
        made = 0
        for asked in islice(asked_questions(self._seed, self._part), _ASKED_PER_ROW * count):
            if made == count:
                return
            if (found := self._samples.get(question_key(asked))) is not None:
                yield self._row(made, asked, found)
                made += 1
        if made < count:
            raise SettingsError(
                f"there are samples of the base model's answers for {made} rows of seed {self._seed} ({self._part}), "
                f"not for {count}: sample them with --base FOLDER, or build at most {QUESTIONS[self._part]} rows "
                "with seed 0"
            )

    def _row(self, number: int, asked: AskedQuestion, found: Sample) -> BuiltRow:
        answer = found.answer or _SILENCE
        return BuiltRow(
            f"uncertainty-{self._part}-{number}",
            (*asked.messages, ("assistant", answer)),
            found.digit,
            family=asked.question.family,
            extra={"right": asked.question.is_right(answer)},
        )
