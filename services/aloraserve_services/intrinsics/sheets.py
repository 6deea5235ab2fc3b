"""Fact sheets: short documents about invented things, whose facts can be asked for, stated and got wrong."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from aloraserve_services.intrinsics.draw import Draw
from aloraserve_services.intrinsics.row import Part, of_part
from aloraserve_services.intrinsics.texts import read_texts

_SLOT = re.compile(r"\{(\w+)\}")
_NUMBERS = {"money": (2, 99), "minutes": (5, 95), "count": (11, 980), "small": (3, 19), "year": (1780, 2019)}


@dataclass(frozen=True, slots=True)
class Fact:
    """A fact of a sheet.

    Args:
        form: its sentence, its questions and its answers, with slots.
        name: of the thing that it is about.
        values: of its slots.
    """

    form: dict[str, Any]
    name: str
    values: dict[str, str]

    @property
    def sentence(self) -> str:
        """The fact as its document says it."""
        return filled(self.form["doc"], self.values, self.name)

    def question(self, draw: Draw) -> str:
        """Return a question for it."""
        return str(draw.pick(self.form["ask"]))

    def answer(self, draw: Draw, values: dict[str, str] | None = None) -> str:
        """Return an answer to its question, with other values in place of its own if there are any."""
        return filled(draw.pick(self.form["say"]), values or self.values, self.name)


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of a sheet.

    Args:
        sentence: that the document has.
        contrary: that it contradicts.
        question: about it.
    """

    sentence: str
    contrary: str
    question: str


@dataclass(frozen=True, slots=True)
class Sheet:
    """Facts about one thing.

    Args:
        domain: the kind of thing.
        facts: that the document has.
        left_out: facts that it might have had and does not.
        rules: that the document has besides.
    """

    domain: str
    facts: tuple[Fact, ...]
    left_out: tuple[Fact, ...]
    rules: tuple[Rule, ...] = ()

    @property
    def text(self) -> str:
        """The document."""
        return " ".join([*(fact.sentence for fact in self.facts), *(rule.sentence for rule in self.rules)])


def domains(part: Part) -> list[str]:
    """Return the domains that a part draws from: validation and test have their own, which no other part has."""
    texts = read_texts("documents")
    held_out: dict[str, list[str]] = texts["held_out"]
    if part in held_out:
        return held_out[part]
    taken = [name for names in held_out.values() for name in names]
    return [name for name in texts["domains"] if name not in taken]


def draw_sheets(draw: Draw, part: Part, count: int) -> list[Sheet]:
    """Return so many sheets of three to six facts, each of another domain; fewer if the part has not so many.

    No two of them have a rule about the same thing.
    """
    names = draw.some(domains(part), count)
    rules = draw_rules(draw, part, 2 * len(names))
    cuts = [draw.pick([0, 0, 1, 2]) for _ in names]
    return [
        replace(draw_sheet(draw, part, draw.number(3, 6), name), rules=rules[2 * number :][:cut])
        for number, (name, cut) in enumerate(zip(names, cuts, strict=True))
    ]


def draw_sheet(draw: Draw, part: Part, size: int, domain: str = "") -> Sheet:
    """Return a sheet of a domain with so many facts, or as many as its domain has but one."""
    domain = domain or draw.pick(domains(part))
    texts = read_texts("documents")["domains"][domain]
    name = draw.pick(texts["names"])
    facts = [Fact(form, name, draw_values(draw, form["doc"], part)) for form in draw.shuffled(texts["facts"])]
    size = min(size, len(facts) - 1)
    # The sentence that names the thing comes first.
    shown = sorted(facts[:size], key=lambda fact: "{it}" not in fact.form["doc"])
    return Sheet(domain, tuple(shown), tuple(facts[size:]))


def draw_rules(draw: Draw, part: Part, count: int) -> tuple[Rule, ...]:
    """Return so many different rules, each in one of its two senses."""
    entries: list[list[str]] = of_part(read_texts("documents")["rules"], part)
    rules = []
    for sentence, contrary, question in draw.some(entries, count):
        said, denied = (sentence, contrary) if draw.chance(0.5) else (contrary, sentence)
        rules.append(Rule(said, denied, question))
    return tuple(rules)


def draw_values(draw: Draw, sentence: str, part: Part) -> dict[str, str]:
    """Return a value for each slot of a sentence."""
    return {kind: draw_value(draw, kind, part) for kind in _SLOT.findall(sentence) if kind != "it"}


def draw_value(draw: Draw, kind: str, part: Part) -> str:
    """Return a value of a kind. Names that the test uses are in no other part."""
    if kind in _NUMBERS:
        return str(draw.number(*_NUMBERS[kind]))
    if kind == "time":
        return f"{draw.number(6, 22)}:{draw.pick(['00', '10', '15', '20', '30', '40', '45', '50'])}"
    options: list[str] = read_texts("documents")["kinds"][kind]
    is_split = kind in ("person", "place")
    return draw.pick(of_part(options, part) if is_split else options)


def filled(template: str, values: dict[str, str], name: str) -> str:
    """Return a template with its values, and with a capital letter at its start."""
    text = _SLOT.sub(lambda match: name if match[1] == "it" else values[match[1]], template)
    return text[0].upper() + text[1:]


def document_text(draw: Draw, part: Part) -> str:
    """Return a document of two to five facts."""
    return draw_sheet(draw, part, draw.number(2, 5)).text
