"""Figures of answers: error, accuracy, F1, absolute error, and which answer is the commonest.

Each figure is a :class:`~aloraserve.training.bootstrap.Measure`, so that it has an interval and can be compared item by
item. An answer may be any hashable value, None for one that cannot be used: it is wrong, and of no label.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TypeVar

import numpy as np

from aloraserve.training.bootstrap import Floats, Measure

Labels = Sequence[Hashable]
T = TypeVar("T")


def mean(values: Sequence[float]) -> Measure:
    """Return the mean of a number per item."""
    return Measure(np.asarray(values, dtype=np.float64).reshape(len(values), 1), lambda means: means[:, 0])


def error_rate(truth: Labels, answers: Labels) -> Measure:
    """Return the share of items whose answer is not the true one."""
    return mean([float(true != answer) for true, answer in _pairs(truth, answers)])


def accuracy(truth: Labels, answers: Labels) -> Measure:
    """Return the share of items whose answer is the true one."""
    return mean([float(true == answer) for true, answer in _pairs(truth, answers)])


def mean_absolute_error(truth: Sequence[float], answers: Sequence[float]) -> Measure:
    """Return the mean distance between numbers."""
    return mean([abs(true - answer) for true, answer in _pairs(truth, answers)])


def f1(truth: Labels, answers: Labels, positive: Hashable) -> Measure:
    """Return the F1 of one label: the harmonic mean of its precision and its recall.

    0 if there is neither such a label nor such an answer, as in scikit-learn.
    """
    return _f1(truth, answers, [positive])


def macro_f1(truth: Labels, answers: Labels) -> Measure:
    """Return the mean of the F1 of every label that is true or answered somewhere."""
    return _f1(truth, answers, labels_of(truth, answers))


def confusion(truth: Labels, answers: Labels, labels: Labels) -> list[list[int]]:
    """Return how often each label (rows) was answered with each label (columns); a last column counts other texts.

    Raises:
        ValueError: a true label is not in ``labels``.
    """
    counts = Counter(_pairs(truth, answers))
    strange = next((true for true in truth if true not in labels), None)
    if strange is not None:
        raise ValueError(f"the label {strange!r} is not accepted; the form has {', '.join(map(repr, labels[:20]))}")
    rows = []
    for true in labels:
        known = [counts[true, answer] for answer in labels]
        rows.append([*known, sum(n for (label, _), n in counts.items() if label == true) - sum(known)])
    return rows


def majority_class(labels: Labels) -> Hashable:
    """Return the commonest label; of equally common ones the first by its text.

    Raises:
        ValueError: there are none.
    """
    if not labels:
        raise ValueError("there are no labels to find the commonest of; at least one is needed")
    counts = Counter(labels)
    return min(counts, key=lambda label: (-counts[label], str(label)))


def median_label(numbers: Sequence[float]) -> float:
    """Return the number of those given whose mean distance from all is least: what answers best without looking.

    Raises:
        ValueError: there are none.
    """
    if not numbers:
        raise ValueError("there are no numbers to find the median of; at least one is needed")
    return sorted(numbers)[(len(numbers) - 1) // 2]


def labels_of(truth: Labels, answers: Labels) -> list[Hashable]:
    """Return every label that is true or answered somewhere, in a stable order."""
    return sorted({label for label in (*truth, *answers) if label is not None}, key=str)


def _f1(truth: Labels, answers: Labels, labels: Labels) -> Measure:
    pairs = _pairs(truth, answers)
    features = np.array(
        [[[true == label == answer, true == label, answer == label] for label in labels] for true, answer in pairs],
        dtype=np.float64,
    ).reshape(len(pairs), -1)

    def of_means(means: Floats) -> Floats:
        hits, true, answered = np.moveaxis(means.reshape(len(means), -1, 3), 2, 0)
        scores = np.divide(2 * hits, true + answered, out=np.zeros_like(hits), where=true + answered > 0)
        return scores.mean(axis=1) if scores.size else np.zeros(len(means))

    return Measure(features, of_means)


def _pairs(truth: Sequence[T], answers: Sequence[T]) -> list[tuple[T, T]]:
    if len(truth) != len(answers):
        raise ValueError(f"{len(answers)} answers are compared with {len(truth)} labels; they must be as many")
    return list(zip(truth, answers, strict=True))
