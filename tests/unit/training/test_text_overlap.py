"""Overlap of texts, by hand and against Google's rouge-score."""

from __future__ import annotations

import random

import pytest
from rouge_score.rouge_scorer import RougeScorer

from aloraserve.training.text_overlap import MAX_WORDS, rouge_l, token_f1, words


def test_token_f1_counts_shared_words_as_often_as_both_have_them() -> None:
    assert token_f1("The ferry leaves at nine.", "ferry leaves at NINE") == 1
    assert token_f1("a b b c", "b b b d") == pytest.approx(2 * 2 / (3 + 4))
    assert (token_f1("x", "y"), token_f1("x", ""), token_f1("", "")) == (0, 0, 1)


def test_rouge_l_needs_the_order_too() -> None:
    assert rouge_l("police killed gunman", "police kill gunman") == pytest.approx(2 / 3)
    assert rouge_l("one two three four", "four three two one") == pytest.approx(1 / 4)


def test_rouge_l_is_that_of_the_reference_implementation() -> None:
    chooser, scorer = random.Random(2), RougeScorer(["rougeL"])
    vocabulary = ["when", "does", "ferry", "go", "to", "isle", "on", "sunday"]
    for _ in range(40):
        first, second = (" ".join(chooser.choices(vocabulary, k=9)) for _ in "12")
        assert rouge_l(first, second) == pytest.approx(scorer.score(first, second)["rougeL"].fmeasure)


def test_a_long_text_is_compared_up_to_a_bound() -> None:
    assert len(words("word " * (MAX_WORDS + 5))) == MAX_WORDS
