"""Questions for tables of facts: asked openly, from the other side, or with two answers to choose from."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from aloraserve_services.intrinsics.draw import Draw
from aloraserve_services.intrinsics.questions import Question, own_wording, part_of_fact
from aloraserve_services.intrinsics.row import Part
from aloraserve_services.intrinsics.texts import read_texts

_CHOICES = ("{q} {a} or {b}?", "{q} Choose {a} or {b}.", "{q} Is it {a} or {b}?", "{q} Pick one: {a} or {b}.")


class TableQuestions:
    """Draws questions for facts of tables that are one part's.

    Args:
        draw: the source of choices.
        part: that they are for.
    """

    def __init__(self, draw: Draw, part: Part) -> None:
        self._draw = draw
        self._part = part
        texts = read_texts("questions")
        self._held_out: list[str] = texts["held_out"]
        self._families: dict[str, dict[str, Any]] = texts["families"]
        self._pairs = {name: pairs for name in self._families if (pairs := self._own_pairs(name))}

    def kind(self) -> Callable[[], Question]:
        """Return a source of questions of one family in one form, which may repeat themselves."""
        name, form = self._draw.pick(list(self._pairs)), self._draw.pick(["ask", "ask", "back", "choice"])
        if form == "back" and "back" in self._families[name]:
            return functools.partial(self._back, name)
        is_choice = form == "choice" and "options" not in self._families[name] and len(self._pairs[name]) > 1
        return functools.partial(self._choice if is_choice else self._open, name)

    def _own_pairs(self, name: str) -> list[tuple[str, tuple[str, ...]]]:
        """Return the pairs of a family that the part may ask for: in the test all of one that is held out."""
        pairs = [(about, tuple(str(right).split("|"))) for about, right in self._families[name]["pairs"].items()]
        if name in self._held_out:
            return pairs if self._part is Part.TEST else []
        return [pair for pair in pairs if part_of_fact(_fact(name, pair[0])) is self._part]

    def _wording(self, name: str, form: str) -> str:
        wordings: list[str] = self._families[name][form]
        return self._draw.pick(wordings) if name in self._held_out else own_wording(self._draw, self._part, wordings)

    def _open(self, name: str) -> Question:
        about, right = self._draw.pick(self._pairs[name])
        wrong = tuple(option for option in self._families[name].get("options", ()) if option not in right)
        return Question(self._asked(name, about), right, wrong, family=name, fact=_fact(name, about))

    def _back(self, name: str) -> Question:
        about, [right, *_] = self._draw.pick(self._pairs[name])
        text = _capital(self._wording(name, "back").format(y=right))
        right_back = (about.removeprefix("the "),)
        return Question(text, right_back, family=f"{name} back", fact=_fact(name, about))

    def _choice(self, name: str) -> Question:
        about, right = self._draw.pick(self._pairs[name])
        others = [other[0] for _, other in self._pairs[name] if other[0] not in right]
        if not others:
            return self._open(name)
        wrong = self._draw.pick(others)
        first, second = self._draw.shuffled([right[0], wrong])
        text = own_wording(self._draw, self._part, _CHOICES).format(q=self._asked(name, about), a=first, b=second)
        return Question(text, right, offered=wrong, family=f"{name} choice", fact=_fact(name, about))

    def _asked(self, name: str, about: str) -> str:
        return _capital(self._wording(name, "ask").format(x=about))


def _fact(name: str, about: str) -> str:
    return f"{name}: {about}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
