"""Questions that are made of numbers, words and orders: sums, comparisons, sequences, spelling and units."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from aloraserve_services.intrinsics.draw import Draw
from aloraserve_services.intrinsics.questions import Question, own_wording, part_of_fact
from aloraserve_services.intrinsics.row import Part
from aloraserve_services.intrinsics.texts import read_texts

_UNITS = (
    ("centimetres", "metres", 100), ("minutes", "hours", 60), ("seconds", "minutes", 60), ("days", "weeks", 7),
    ("months", "years", 12), ("grams", "kilograms", 1000), ("hours", "days", 24), ("metres", "kilometres", 1000),
    ("cents", "dollars", 100), ("eggs", "dozens", 12), ("inches", "feet", 12), ("ounces", "pounds", 16),
)  # fmt: skip
_SUMS = (
    ("+", "plus", 1, 9), ("+", "plus", 1, 9), ("+", "plus", 10, 99), ("+", "plus", 100, 999), ("-", "minus", 1, 20),
    ("-", "minus", 20, 200), ("x", "times", 2, 10), ("x", "times", 11, 30),
)  # fmt: skip
_ROMAN = ((10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I"))
_NAMES = (
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class MadeQuestions:
    """Draws questions whose operands, sequences and words are one part's.

    Args:
        draw: the source of choices.
        part: that they are for.
    """

    def __init__(self, draw: Draw, part: Part) -> None:
        self._draw = draw
        self._part = part
        self._texts = read_texts("questions")
        self._kinds: Sequence[Callable[[], Question]] = (
            self._sum, self._sum, self._sum, self._compare, self._compare, self._sequence, self._spell, self._spell,
            self._unit, self._order, self._order, self._parity, self._numeral, self._letter, self._echo,
        )  # fmt: skip

    def kind(self) -> Callable[[], Question]:
        """Return a source of questions of one kind, which may repeat themselves."""
        return functools.partial(self._own, self._draw.pick(self._kinds))

    def _own(self, make: Callable[[], Question]) -> Question:
        """Return a question for a fact of the part."""
        while True:
            question = make()
            if part_of_fact(question.fact) is self._part:
                return question

    def _text(self, wordings: Sequence[str], **values: object) -> str:
        return own_wording(self._draw, self._part, wordings).format(**values)

    def _sum(self) -> Question:
        sign, word, low, high = self._draw.pick(_SUMS)
        first, second = self._draw.number(low, high), self._draw.number(low, high)
        if sign == "-":
            first, second = max(first, second), min(first, second)
        value = {"+": first + second, "-": first - second, "x": first * second}[sign]
        wordings = [
            "What is {a} {s} {b}?",
            "{a} {s} {b} = ?",
            "Calculate {a} {s} {b}.",
            "What does {a} {w} {b} make?",
            "How much is {a} {w} {b}?",
        ]
        # 3 + 4 and 4 + 3 are one fact.
        fact = f"{min(first, second)} {sign} {max(first, second)}"
        text = self._text(wordings, a=first, b=second, s=sign, w=word)
        return Question(text, (str(value),), family=f"arithmetic {sign}{high}", fact=fact)

    def _compare(self) -> Question:
        draw = self._draw
        high = draw.pick([10, 100, 10000])
        first, second = draw.number(1, high), draw.number(1, high)
        second += first == second
        is_larger = draw.chance(0.5)
        right, other = (max, min) if is_larger else (min, max)
        wordings = [
            "Which number is {s}, {a} or {b}?",
            "Which is {s}: {a} or {b}?",
            "{a} or {b}, which of them is {s}?",
            "Tell me the {s} number: {a} or {b}.",
        ]
        text = self._text(wordings, a=first, b=second, s="larger" if is_larger else "smaller")
        fact = f"compare {min(first, second)} {max(first, second)}"
        found, offered = str(right(first, second)), str(other(first, second))
        return Question(text, (found,), offered=offered, family=f"compare {high}", fact=fact)

    def _order(self) -> Question:
        """Return a question which of two things is larger, heavier and so on."""
        word = self._draw.pick(list(self._texts["orders"]))
        things: list[str] = self._draw.pick(self._texts["orders"][word])
        low, high = sorted(self._draw.some(range(len(things)), 2))
        first, second = self._draw.shuffled([things[low], things[high]])
        wordings = [
            "Which is {s}, {a} or {b}?",
            "Which one is {s}: {a} or {b}?",
            "{a} or {b}: which is {s}?",
            "What is {s}, {a} or {b}?",
        ]
        text = self._text(wordings, a=first, b=second, s=word)
        right, wrong = (things[at].removeprefix("a ").removeprefix("an ").removeprefix("the ") for at in (high, low))
        fact = f"{word}: {right} and {wrong}"
        text = text[0].upper() + text[1:]
        return Question(text, (right,), offered=wrong, family=f"order {word}", fact=fact)

    def _sequence(self) -> Question:
        step = self._draw.pick([1, 2, 2, 3, 4, 5, 10])
        start = self._draw.number(1, 40)
        shown = ", ".join(str(start + step * number) for number in range(4))
        wordings = [
            "Which number comes next: {n}?",
            "Continue the sequence with one number: {n}, ...",
            "What is the next number after {n}?",
            "{n}: what number follows?",
        ]
        text = self._text(wordings, n=shown)
        return Question(text, (str(start + 4 * step),), family=f"sequence {step}", fact=f"sequence {shown}")

    def _parity(self) -> Question:
        number = self._draw.number(1, 99)
        wordings = [
            "Is {n} odd or even?",
            "Is the number {n} even or odd?",
            "Odd or even: {n}?",
            "Tell me whether {n} is even or odd.",
        ]
        right, wrong = ("odd", "even") if number % 2 else ("even", "odd")
        text, fact = self._text(wordings, n=number), f"parity of {number}"
        return Question(text, (right,), offered=wrong, family="parity", fact=fact)

    def _numeral(self) -> Question:
        if self._draw.chance(0.5):
            number = self._draw.number(1, 20)
            wordings = [
                'Write the number "{n}" in digits.',
                'Which number is "{n}"?',
                'Give "{n}" as a numeral.',
                'How is "{n}" written with digits?',
            ]
            text = self._text(wordings, n=_NAMES[number - 1])
            return Question(text, (str(number),), family="number words", fact=f"number word {number}")
        number = self._draw.number(1, 39)
        wordings = [
            "Which number is the Roman numeral {n}?",
            "What is the Roman numeral {n} in ordinary digits?",
            "Convert the Roman numeral {n}.",
            "The Roman numeral {n} stands for which number?",
        ]
        text = self._text(wordings, n=_roman(number))
        return Question(text, (str(number),), family="Roman numerals", fact=f"Roman numeral {number}")

    def _letter(self) -> Question:
        at, step = self._draw.number(1, 24), self._draw.pick([1, -1])
        wordings = [
            "Which letter comes {w} {x} in the alphabet?",
            "In the alphabet, what is the letter {w} {x}?",
            "Name the letter that stands {w} {x} in the alphabet.",
            "What letter of the alphabet is right {w} {x}?",
        ]
        text = self._text(wordings, x=_ALPHABET[at], w="after" if step == 1 else "before")
        right = _ALPHABET[at + step]
        family = "next letter" if step == 1 else "letter before"
        return Question(text, (right, right.lower()), family=family, fact=f"letter {_ALPHABET[at]}{step}")

    def _echo(self) -> Question:
        word = self._draw.pick(self._texts["words"])
        wordings = [
            'Repeat the word "{x}".',
            'Say "{x}".',
            'Write the word "{x}" once more.',
            'Say the word "{x}" again.',
        ]
        return Question(self._text(wordings, x=word), (word,), family="echo", fact=f"word {word}")

    def _spell(self) -> Question:
        word = self._draw.pick(self._texts["words"])
        kind, fact = self._draw.pick(["first", "last", "length"]), f"word {word}"
        if kind == "length":
            wordings = [
                'How many letters has the word "{x}"?',
                'Count the letters of "{x}".',
                'How long is the word "{x}" in letters?',
                'The word "{x}" has how many letters?',
            ]
            return Question(self._text(wordings, x=word), (str(len(word)),), family="letters", fact=fact)
        letter = word[0] if kind == "first" else word[-1]
        wordings = [
            'What is the {k} letter of "{x}"?',
            'Name the {k} letter of the word "{x}".',
            'Tell me the {k} letter of "{x}".',
            'With which letter does "{x}" {v}?',
        ]
        text = self._text(wordings, x=word, k=kind, v="begin" if kind == "first" else "end")
        return Question(text, (letter, letter.upper()), family=f"{kind} letter", fact=fact)

    def _unit(self) -> Question:
        small, large, factor = self._draw.pick(_UNITS)
        count = self._draw.number(2, 12)
        wordings = [
            "How many {s} are in {n} {l}?",
            "{n} {l} are how many {s}?",
            "{n} {l} make how many {s}?",
            "Convert {n} {l} to {s}.",
        ]
        text = self._text(wordings, s=small, l=large, n=count)
        return Question(text, (str(count * factor),), family=f"units {factor}", fact=f"{count} {large} in {small}")


def _roman(number: int) -> str:
    text = ""
    for value, sign in _ROMAN:
        text += sign * (number // value)
        number %= value
    return text
