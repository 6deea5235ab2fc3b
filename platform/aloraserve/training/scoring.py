"""From answers to figures: what each arm reaches, and how arms compare on the same items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aloraserve.training.bootstrap import Measure, difference, estimate, gain_ratio
from aloraserve.training.calibration import brier_score, calibration_error, reliability
from aloraserve.training.metrics import confusion, error_rate, f1, macro_f1, mean, mean_absolute_error
from aloraserve.training.results import ArmResult, Comparison, ItemResult, Role, Through
from aloraserve.training.scored_form import ScoredForm
from aloraserve.training.text_overlap import rouge_l, token_f1

ERROR, MACRO_F1, F1, MAE, BRIER, ECE = "error", "macro_f1", "f1", "mae", "brier", "ece"
TOKEN_F1, ROUGE_L, SAID_MAE = "token_f1", "rouge_l", "said_mae"
PRIMARY = {"choice": ERROR, "digit": MAE, "text": ROUGE_L}
"""The figure that decides, by the form's kind."""
LOWER_IS_BETTER = frozenset((ERROR, MAE, SAID_MAE, BRIER, ECE))
FARTHEST = 9.0
"""Distance from the true digit of an answer that is not a digit."""

Measures = Mapping[str, Measure]


@dataclass(frozen=True, slots=True)
class ArmAnswers:
    """One way to answer all items, before it is scored.

    Args:
        name: of it, in tables.
        role: that it has in the comparison.
        through: what answered.
        items: in the order of the rows.
        facts: of it, for people.
    """

    name: str
    role: Role
    through: Through
    items: Sequence[ItemResult]
    facts: Mapping[str, str]


def measures_of(form: ScoredForm, items: Sequence[ItemResult]) -> dict[str, Measure]:
    """Return an arm's figures by name."""
    truth, labels = [item.truth for item in items], [item.label for item in items]
    found = {ERROR: error_rate(truth, labels)}
    if form.kind == "text":
        pairs = [(item.truth, item.text or "") for item in items]
        found[ROUGE_L] = mean([rouge_l(*pair) for pair in pairs])
        found[TOKEN_F1] = mean([token_f1(*pair) for pair in pairs])
        return found
    found[MACRO_F1] = macro_f1(truth, labels)
    if len(form.labels) == 2:
        found[F1] = f1(truth, labels, form.labels[0])
    if form.kind == "digit":
        distances = [FARTHEST if item.label is None else abs(int(item.truth) - int(item.label)) for item in items]
        found[MAE] = mean_absolute_error([0.0] * len(items), distances)
    if said := _said(form, items):
        if form.kind == "digit":
            found[SAID_MAE] = mean_absolute_error(*([10 * value for value in side] for side in said))
        found |= {BRIER: brier_score(*said), ECE: calibration_error(*said)}
    return found


def scored(form: ScoredForm, answers: ArmAnswers, *, seed: int = 0) -> ArmResult:
    """Return an arm with its figures.

    Args:
        form: of the answers.
        answers: of the arm.
        seed: of the intervals.
    """
    items = tuple(answers.items)
    said = _said(form, items)
    table: list[list[int]] = []
    if form.kind != "text":
        table = confusion([item.truth for item in items], [item.label for item in items], form.labels)
    return ArmResult(
        name=answers.name,
        role=answers.role,
        through=answers.through,
        items=items,
        unsaid=len(items) - len(said[0] if said else ()) if form.numbers else 0,
        figures={name: estimate(measure, seed=seed) for name, measure in measures_of(form, items).items()},
        confusion=tuple(map(tuple, table)),
        reliability=tuple(reliability(*said)) if said else (),
        facts=answers.facts,
    )


def compared(form: ScoredForm, arms: Sequence[ArmResult], *, seed: int = 0) -> list[Comparison]:
    """Return how the arms compare in the figure that decides: each less what it is to be held against.

    Digits are compared a second time by the probabilities that arms say, the mean over all digits: of a flat
    distribution the most probable digit says little.
    """
    figure = PRIMARY[form.kind]
    all_measures = {(arm.role, arm.through): measures_of(form, arm.items) for arm in arms}
    measures = {place: found[figure] for place, found in all_measures.items()}
    found = _differences(measures, figure, seed)
    # Of the same items: an arm that left some of them out cannot be held against the others.
    complete = {(arm.role, arm.through) for arm in arms if not arm.unsaid}
    said = {place: found[SAID_MAE] for place, found in all_measures.items() if SAID_MAE in found and place in complete}
    found += _differences(said, SAID_MAE, seed, ", by the probabilities")
    return found + [
        Comparison(
            name=f"gain ratio of {name}: (served - told) / (PEFT - told)",
            figure=figure,
            estimate=gain_ratio(*(measures[place] for place in places), seed=seed),
            is_ratio=True,
        )
        for name, places in _GAINS
        if all(place in measures for place in places)
    ]


def _differences(measures: Mapping[_Place, Measure], figure: str, seed: int, how: str = "") -> list[Comparison]:
    return [
        Comparison(name=name + how, figure=figure, estimate=difference(measures[left], measures[right], seed=seed))
        for name, left, right in _PAIRS
        if left in measures and right in measures
    ]


_Place = tuple[Role, Through]
_MAJORITY: _Place = ("majority", "rule")
_BASE: _Place = ("base", "peft")
_TOLD: _Place = ("told", "peft")
_ALORA: _Place = ("alora", "peft")
_LORA: _Place = ("lora", "peft")
_SERVED_ALORA: _Place = ("alora", "platform")
_SERVED_LORA: _Place = ("lora", "platform")
_PAIRS: tuple[tuple[str, _Place, _Place], ...] = (
    ("aLoRA less LoRA", _ALORA, _LORA),
    ("aLoRA less the base model that is told", _ALORA, _TOLD),
    ("aLoRA less the base model that is not told", _ALORA, _BASE),
    ("aLoRA less the majority class", _ALORA, _MAJORITY),
    ("LoRA less the base model that is told", _LORA, _TOLD),
    ("LoRA less the majority class", _LORA, _MAJORITY),
    ("aLoRA less the compared adapter", _ALORA, ("compared", "peft")),
    ("aLoRA served less aLoRA through PEFT", _SERVED_ALORA, _ALORA),
    ("LoRA served less LoRA through PEFT", _SERVED_LORA, _LORA),
)
_GAINS = (("aLoRA", (_SERVED_ALORA, _ALORA, _TOLD)), ("LoRA", (_SERVED_LORA, _LORA, _TOLD)))


def _said(form: ScoredForm, items: Sequence[ItemResult]) -> tuple[list[float], list[float]] | None:
    """Return what came true and what was said of it, of the items that have both; None if none has."""
    pairs = [
        (number, item.probability)
        for item in items
        if item.probability is not None and (number := form.number(item.truth)) is not None
    ]
    return ([number for number, _ in pairs], [said for _, said in pairs]) if pairs else None
