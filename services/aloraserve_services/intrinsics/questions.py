"""Questions whose answers can be checked: facts, arithmetic, comparisons, spelling and units, from easy to hard."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aloraserve_services.intrinsics.draw import Draw
from aloraserve_services.intrinsics.row import Part, of_part
from aloraserve_services.intrinsics.texts import read_texts

_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_UNITS = (
    ("centimetres", "metres", 100), ("minutes", "hours", 60), ("seconds", "minutes", 60), ("days", "weeks", 7),
    ("months", "years", 12), ("grams", "kilograms", 1000), ("hours", "days", 24), ("metres", "kilometres", 1000),
    ("cents", "dollars", 100), ("eggs", "dozens", 12), ("inches", "feet", 12), ("ounces", "pounds", 16),
)  # fmt: skip
_SUMS = (
    ("+", "plus", 1, 9), ("+", "plus", 10, 99), ("+", "plus", 100, 999), ("-", "minus", 1, 20),
    ("-", "minus", 20, 200), ("x", "times", 2, 10), ("x", "times", 11, 30),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Question:
    """A question that can be checked.

    Args:
        text: as it is asked.
        right: answers that are accepted.
        wrong: what a right answer does not have, besides.
        family: of questions.
    """

    text: str
    right: tuple[str, ...]
    wrong: tuple[str, ...] = ()
    family: str = ""

    def is_right(self, answer: str) -> bool:
        """Return whether an answer is right: numbers by the last one of its first line, words wherever they stand."""
        answer = answer.strip()
        if self.right[0].isdigit() and (numbers := _NUMBER.findall(answer.split("\n")[0])):
            return numbers[-1].replace(",", "").rstrip(".") in self.right
        return any(map(_in(answer), self.right)) and not any(map(_in(answer), self.wrong))


def _in(answer: str) -> Callable[[str], bool]:
    def is_in(text: str) -> bool:
        flags = 0 if len(text) < 3 else re.IGNORECASE
        return re.search(rf"(?<!\w){re.escape(text)}(?!\w)", answer, flags) is not None

    return is_in


class QuestionSource:
    """Draws questions for one part.

    Wordings and words of the test are in no other part, nor are long tables of facts and those that are held out.
    Numbers, units and short tables are drawn for all parts alike: such a question differs in its wording alone.

    Args:
        seed: equal seeds give equal questions.
        part: that they are for.
    """

    def __init__(self, seed: int, part: Part) -> None:
        self._draw = Draw("questions", seed, part)
        self._part = part
        self._texts = read_texts("questions")
        held_out = self._texts["held_out"]
        self._facts = [name for name in self._texts["families"] if part is Part.TEST or name not in held_out]

    def question(self) -> Question:
        """Return another question, perhaps one that was there before."""
        makers = (
            self._fact,
            self._fact,
            self._fact,
            self._arithmetic,
            self._arithmetic,
            self._compare,
            self._spell,
            self._unit,
        )
        return self._draw.pick(makers)()

    def _fact(self) -> Question:
        family = self._draw.pick(self._facts)
        table = self._texts["families"][family]
        pairs = list(table["pairs"].items())
        # A family of a dozen has too few for a part of its own.
        is_whole = len(pairs) < 15 or family in self._texts["held_out"]
        about, right = self._draw.pick(pairs if is_whole else of_part(pairs, self._part))
        text = self._wording(table["ask"]).format(x=about)
        return Question(text[0].upper() + text[1:], tuple(str(right).split("|")), family=family)

    def _wording(self, wordings: Sequence[str]) -> str:
        """Return a wording; the last one is the test's, the one before it the validation's."""
        own = {Part.TEST: wordings[-1:], Part.VALIDATION: wordings[-2:-1]}
        return self._draw.pick(own.get(self._part, wordings[:-2]))

    def _arithmetic(self) -> Question:
        draw = self._draw
        sign, word, low, high = draw.pick(_SUMS)
        first, second = draw.number(low, high), draw.number(low, high)
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
        return Question(
            self._wording(wordings).format(a=first, b=second, s=sign, w=word),
            (str(value),),
            family=f"arithmetic {sign}{high}",
        )

    def _compare(self) -> Question:
        draw = self._draw
        high = draw.pick([10, 100, 10000])
        first, second = draw.number(1, high), draw.number(1, high)
        second += first == second
        is_larger = draw.chance(0.5)
        right = str(max(first, second) if is_larger else min(first, second))
        wordings = [
            "Which number is {s}, {a} or {b}?",
            "Which is {s}: {a} or {b}?",
            "{a} or {b}, which of them is {s}?",
            "Tell me the {s} number: {a} or {b}.",
        ]
        text = self._wording(wordings).format(a=first, b=second, s="larger" if is_larger else "smaller")
        return Question(text, (right,), family=f"compare {high}")

    def _spell(self) -> Question:
        word = self._draw.pick(of_part(self._texts["words"], self._part))
        kind = self._draw.pick(["first", "last", "length", "plural"])
        if kind == "length":
            wordings = [
                'How many letters has the word "{x}"?',
                'Count the letters of "{x}".',
                'How long is the word "{x}" in letters?',
                'The word "{x}" has how many letters?',
            ]
            return Question(self._wording(wordings).format(x=word), (str(len(word)),), family="letters")
        if kind == "plural":
            if word.endswith("y") and word[-2] not in "aeiou":
                plural = word[:-1] + "ies"
            else:
                plural = word + ("es" if word.endswith(("s", "ch", "x")) else "s")
            wordings = [
                'What is the plural of "{x}"?',
                'Give the plural of the word "{x}".',
                "One {x}, two what?",
                'How is "{x}" written in the plural?',
            ]
            return Question(self._wording(wordings).format(x=word), (plural,), family="plural")
        letter = word[0] if kind == "first" else word[-1]
        wordings = [
            'What is the {k} letter of "{x}"?',
            'Name the {k} letter of the word "{x}".',
            'Tell me the {k} letter of "{x}".',
            'With which letter does "{x}" {v}?',
        ]
        verb = "begin" if kind == "first" else "end"
        return Question(
            self._wording(wordings).format(x=word, k=kind, v=verb), (letter, letter.upper()), family=f"{kind} letter"
        )

    def _unit(self) -> Question:
        small, large, factor = self._draw.pick(_UNITS)
        count = self._draw.number(2, 12)
        wordings = [
            "How many {s} are in {n} {l}?",
            "{n} {l} are how many {s}?",
            "{n} {l} make how many {s}?",
            "Convert {n} {l} to {s}.",
        ]
        text = self._wording(wordings).format(s=small, l=large, n=count)
        return Question(text, (str(count * factor),), family=f"units {factor}")
