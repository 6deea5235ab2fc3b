"""The arms of an evaluation that need no platform: one answer for all, the base model, and adapters through PEFT."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aloraserve.adapters import AdapterVersion
from aloraserve.adapters.intrinsics import IntrinsicSpec
from aloraserve.adapters.intrinsics.answers import Asked, RawAnswer, interpret
from aloraserve.errors import TrainingError, UnusableAnswerError
from aloraserve.training import TrainingRow, TrainingSpec
from aloraserve.training.metrics import majority_class, median_label
from aloraserve.training.results import ItemResult, Role
from aloraserve.training.scored_form import ScoredForm
from aloraserve.training.scoring import ArmAnswers
from aloraserve_services.training.base_model import BaseTokens
from aloraserve_services.training.evaluation_prompts import EvaluationPrompts, told
from aloraserve_services.training.greedy import GreedyAnswer
from aloraserve_services.training.progress import TrainingProgress
from aloraserve_services.training.reference_model import ReferenceModel, ReferencePrompt
from aloraserve_services.training.run import PreparedTraining


@dataclass(frozen=True, slots=True)
class ReferenceArm:
    """An arm that a model answers.

    Args:
        name: of the arm, in tables.
        role: of the arm.
        adapter: key of the adapter, None for the base model.
        spec: that is asked.
        facts: of the arm.
    """

    name: str
    role: Role
    adapter: str | None
    spec: IntrinsicSpec
    facts: Mapping[str, str]


def constant_arm(form: ScoredForm, rows: Sequence[TrainingRow], train: Sequence[TrainingRow]) -> ArmAnswers:
    """Return the arm that gives everybody one answer: the commonest label of the training rows, of digits the median.

    The probability that it says is the mean of the training labels' numbers.
    """
    labels = [label for row in train if (label := form.label(row.completion)) is not None]
    is_digit = form.kind == "digit"
    answer = str(int(median_label([int(label) for label in labels]))) if is_digit else str(majority_class(labels))
    numbers = [number for label in labels if (number := form.number(label)) is not None]
    probability = sum(numbers) / len(numbers) if numbers else None
    items = [item_of(row, form, answer, probability) for row in rows]
    return ArmAnswers("median digit" if is_digit else "majority class", "majority", "rule", items, {"answer": answer})


def base_arms(spec: IntrinsicSpec, instruction: str) -> list[ReferenceArm]:
    """Return the base model's arms, not told and told; both are held to the form.

    Args:
        spec: of the intrinsic.
        instruction: what the second is told.
    """
    return [
        ReferenceArm("base model, not told", "base", None, told(spec, None), {}),
        ReferenceArm("base model, told", "told", None, told(spec, instruction), {"instruction": instruction}),
    ]


def adapter_arm(name: str, role: Role, key: str, version: AdapterVersion) -> ReferenceArm:
    """Return an adapter's arm.

    Args:
        name: of the arm.
        role: of the arm.
        key: of the adapter in the model.
        version: the adapter.
    """
    facts = {"rank": str(version.rank), "targets": ", ".join(version.target_modules), "digest": version.digest[:12]}
    if version.kind == "alora":
        facts["invocation"] = version.invocation_text or str(list(version.invocation_ids))
        facts["invocation tokens"] = str(len(version.invocation_ids))
    return ReferenceArm(name, role, key, version.intrinsic or IntrinsicSpec(), facts)


def instruction_of(training: TrainingSpec, spec: IntrinsicSpec, form: ScoredForm) -> str:
    """Return what the base model is told: the adapter's own instruction if it needs no fields, else the description."""
    own = spec.instruction if spec.instruction and not spec.fields else ""
    task = own or training.description or f"Consider the conversation above: {training.name}?"
    text = f"{task.strip()} Answer with {form.words}, and with nothing else."
    # It becomes a template, whose braces are fields.
    return text.replace("{", "{{").replace("}", "}}")


def reference_answers(
    prepared: PreparedTraining,
    adapters: Mapping[str, AdapterVersion],
    arms: Sequence[ReferenceArm],
    rows: Sequence[TrainingRow],
    form: ScoredForm,
    progress: TrainingProgress,
) -> list[ArmAnswers]:
    """Return what each arm answers through PEFT; row by row, so that arms share what their prompts begin with.

    Args:
        prepared: base model and dtype.
        adapters: by key.
        arms: that answer.
        rows: that are asked about.
        form: of the answers.
        progress: told of each row.

    Raises:
        TrainingError: the gateway would not accept a row.
        StartError: the extra ``train`` is not installed.
    """
    base = BaseTokens.read(prepared.base_path)
    model = ReferenceModel(prepared.base_path, adapters, base.tokenizer, dtype=prepared.dtype)
    prompts = EvaluationPrompts(prepared.base_path, base.tokenizer, adapters, context=base.context)
    found: list[list[ItemResult]] = [[] for _ in arms]

    async def answer_all() -> None:
        for number, row in enumerate(rows):
            progress.advance("through PEFT", number, len(rows))
            for arm, items in zip(arms, found, strict=True):
                asked = await prompts.ask(row, arm.adapter, arm.spec)
                items.append(_answered(row, form, arm.spec, _answer(model, asked.prompt), asked.asked))
        progress.advance("through PEFT", len(rows), len(rows))

    asyncio.run(answer_all())
    return [ArmAnswers(arm.name, arm.role, "peft", items, arm.facts) for arm, items in zip(arms, found, strict=True)]


def item_of(
    row: TrainingRow,
    form: ScoredForm,
    text: str | None,
    probability: float | None,
    margins: tuple[tuple[str, float], ...] = (),
    error: str = "",
) -> ItemResult:
    """Return an answer to a row with its label."""
    return ItemResult(
        file=row.file,
        line=row.line,
        truth=form.label(row.completion) or "",
        text=text,
        label=form.label(text),
        probability=probability,
        margins=margins,
        error=error,
    )


def _answer(model: ReferenceModel, prompt: ReferencePrompt) -> GreedyAnswer:
    try:
        return model.answer(prompt)
    except ValueError as error:
        raise TrainingError(f"answers cannot be held to the intrinsic's form: {error}") from None


def _answered(
    row: TrainingRow, form: ScoredForm, spec: IntrinsicSpec, answer: GreedyAnswer, asked: Asked
) -> ItemResult:
    probability = None
    try:
        raw = RawAnswer(answer.text, answer.logprobs, answer.is_cut_off)
        probability = interpret(spec, raw, asked).probability
    except UnusableAnswerError:
        # It has no label either, and counts as wrong.
        pass
    return item_of(row, form, answer.text, probability, answer.margins)
