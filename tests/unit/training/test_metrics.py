"""Metrics against values worked out by hand, and against what holds of any answers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aloraserve.training.metrics import (
    accuracy,
    confusion,
    error_rate,
    f1,
    labels_of,
    macro_f1,
    majority_class,
    mean_absolute_error,
    median_label,
)

TRUTH = ["cat", "cat", "cat", "cat", "cat", "cat", "fish", "fish", "fish", "fish"]
ANSWERS = ["cat", "cat", "cat", "cat", "fish", None, "fish", "fish", "cat", "hen"]
PAIRS = st.lists(st.tuples(st.sampled_from("YN"), st.sampled_from(["Y", "N", None])), min_size=1, max_size=40)


def test_error_and_accuracy_count_what_cannot_be_used_as_wrong() -> None:
    assert error_rate(TRUTH, ANSWERS).value == pytest.approx(0.4)
    assert accuracy(TRUTH, ANSWERS).value == pytest.approx(0.6)


def test_f1_is_of_precision_and_recall() -> None:
    # cat: 4 hits, 5 answered, 6 true; fish: 2 hits, 3 answered, 4 true; hen: 1 answered, none true.
    assert f1(TRUTH, ANSWERS, "cat").value == pytest.approx(8 / 11)
    assert f1(TRUTH, ANSWERS, "fish").value == pytest.approx(4 / 7)
    assert f1(TRUTH, ANSWERS, "dog").value == 0
    assert macro_f1(TRUTH, ANSWERS).value == pytest.approx((8 / 11 + 4 / 7 + 0) / 3)


def test_absolute_error_is_the_mean_distance() -> None:
    assert mean_absolute_error([1, 5, 9], [2, 5, 5]).value == pytest.approx(5 / 3)


def test_confusion_has_a_column_for_what_is_no_label() -> None:
    assert confusion(TRUTH, ANSWERS, ["cat", "fish"]) == [[4, 1, 1], [1, 2, 1]]
    with pytest.raises(ValueError, match="label 'fish' is not accepted; the form has 'cat', 'dog'"):
        confusion(TRUTH, ANSWERS, ["cat", "dog"])


def test_the_majority_class_is_the_commonest_and_the_same_each_time() -> None:
    assert majority_class(TRUTH) == "cat"
    assert majority_class(["b", "a", "b", "a"]) == "a"
    with pytest.raises(ValueError, match="no labels"):
        majority_class([])


def test_the_median_label_has_the_least_absolute_error() -> None:
    numbers = [0, 1, 1, 8, 9, 9, 9]
    best = median_label(numbers)
    assert best == 8
    worse = [mean_absolute_error(numbers, [other] * len(numbers)).value for other in range(10)]
    assert mean_absolute_error(numbers, [best] * len(numbers)).value == min(worse)
    assert median_label([4, 2]) == 2
    with pytest.raises(ValueError, match="no numbers"):
        median_label([])


@settings(max_examples=60, deadline=None)
@given(PAIRS)
def test_a_confusion_holds_every_item_and_agrees_with_accuracy(pairs: list[tuple[str, str | None]]) -> None:
    truth, answers = [true for true, _ in pairs], [answer for _, answer in pairs]
    table = confusion(truth, answers, ["Y", "N"])
    assert sum(map(sum, table)) == len(pairs)
    assert (table[0][0] + table[1][1]) / len(pairs) == pytest.approx(accuracy(truth, answers).value)
    for place, label in enumerate("YN"):
        hits, other = table[place][place], table[1 - place][place]
        whole = 2 * hits + other + sum(table[place]) - hits
        assert f1(truth, answers, label).value == pytest.approx(2 * hits / whole if whole else 0)


def test_other_counts_of_answers_are_refused() -> None:
    with pytest.raises(ValueError, match="1 answers are compared with 2 labels"):
        error_rate(["Y", "N"], ["Y"])


def test_labels_are_those_of_truth_and_answers() -> None:
    assert labels_of([2, 1], [None, 3]) == [1, 2, 3]
