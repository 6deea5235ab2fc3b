"""Questions whose answers can be checked, and the facts that they are about, which are divided between the parts."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from aloraserve_services.intrinsics.draw import Draw
from aloraserve_services.intrinsics.row import Part

_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Question:
    """A question that can be checked.

    Args:
        text: as it is asked.
        right: answers that are accepted.
        wrong: what a right answer does not have, besides.
        offered: a wrong answer that the question offers beside the right one; the one that is named first counts.
        family: of questions.
        fact: that it asks for; no two parts ask for one fact.
    """

    text: str
    right: tuple[str, ...]
    wrong: tuple[str, ...] = ()
    offered: str = ""
    family: str = ""
    fact: str = ""

    def is_right(self, answer: str) -> bool:
        """Return whether an answer is right: numbers by the last one of its first line, words wherever they stand."""
        answer = answer.strip()
        if self.offered:
            return _place(answer, self.right) < _place(answer, (self.offered,))
        if self.right[0].isdigit() and (numbers := _NUMBER.findall(answer.split("\n")[0])):
            return numbers[-1].replace(",", "").rstrip(".") in self.right
        return _place(answer, self.right) < len(answer) <= _place(answer, self.wrong)


def _place(answer: str, texts: Sequence[str]) -> int:
    """Return where the first of some texts stands in an answer as a word, its length if none of them does."""
    places = [len(answer)]
    for text in texts:
        flags = 0 if len(text) < 3 else re.IGNORECASE
        places += [found.start() for found in re.finditer(rf"(?<!\w){re.escape(text)}(?!\w)", answer, flags)]
    return min(places)


def part_of_fact(fact: str) -> Part:
    """Return the part that may ask for a fact: five of twenty are the test's, two the validation's."""
    number = int.from_bytes(hashlib.sha256(fact.encode()).digest()[:4], "big") % 20
    return Part.TEST if number < 5 else Part.VALIDATION if number < 7 else Part.TRAIN


def own_wording(draw: Draw, part: Part, wordings: Sequence[str]) -> str:
    """Return a part's wording: the last one is the test's, the one before it the validation's."""
    own = {Part.TEST: wordings[-1:], Part.VALIDATION: wordings[-2:-1]}
    return draw.pick(own.get(part, wordings[:-2]))
