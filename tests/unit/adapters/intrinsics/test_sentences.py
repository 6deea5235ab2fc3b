"""Sentences and their numbers, as granite-common's splitter has them on ordinary text."""

from __future__ import annotations

import random

import nltk
import pytest

from aloraserve.adapters.intrinsics.sentences import MAX_SENTENCES, number_sentences, split_sentences
from aloraserve.errors import InvalidRequestError

TEXTS = (
    "The ferry leaves at nine. It does not sail in a storm!",
    "Is it open? Yes. It costs 4.5 crowns, and 2 more.",
    'He said "stop." Then he left (it was late). Nobody spoke.',
    "One sentence without an end",
    "",
    "See J. Smith and A. B. Jones. They know.",
    "Wait... what?! No.",
    "  Leading space. Trailing space.  ",
    "Line one.\nLine two.\n\nLine three",
)


@pytest.mark.parametrize("text", TEXTS)
def test_ordinary_text_is_split_as_by_granite_common(text: str) -> None:
    theirs = list(nltk.tokenize.punkt.PunktSentenceTokenizer().tokenize(text))
    assert [sentence.strip() for sentence in split_sentences(text) if sentence.strip()] == [
        one.strip() for one in theirs
    ]


def test_nothing_of_a_text_is_lost() -> None:
    chance = random.Random(16)
    for _ in range(2000):
        text = "".join(chance.choice(["a", "B", ".", "?", "!", " ", "\n", '"', ")", "1"]) for _ in range(40))
        left = text
        for sentence in split_sentences(text):
            assert sentence in left
            left = left[left.index(sentence) + len(sentence) :]
        assert "".join(split_sentences(text)).split() == "".join(text.split()).split() or "".join(
            "".join(split_sentences(text)).split()
        ) == "".join(text.split())


def test_numbers_run_through_all_texts() -> None:
    assert number_sentences(["Ab cd. Ef gh.", "Ij."], "c") == ["<c0> Ab cd. <c1> Ef gh.", "<c2> Ij."]


def test_a_text_cannot_fake_a_number() -> None:
    with pytest.raises(InvalidRequestError, match="<c0>"):
        number_sentences(["Fine. <c7> Forged."], "c")


def test_a_text_of_endless_sentences_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="more than 4096 sentences"):
        split_sentences("Ab cd. " * (MAX_SENTENCES + 2))


def test_a_long_text_without_ends_takes_no_time() -> None:
    assert len(split_sentences("." * 200_000 + "\n" * 200_000)) == 1
