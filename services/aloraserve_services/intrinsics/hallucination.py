"""Rows for the hallucination intrinsic: does the last answer say what no document says ("yes") or not ("no")?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from aloraserve_services.intrinsics.draw import Draw
from aloraserve_services.intrinsics.grounding import Messages, grounded
from aloraserve_services.intrinsics.row import BuiltRow, Part, of_part
from aloraserve_services.intrinsics.sheets import Fact, Rule, Sheet, draw_rules, draw_sheets, draw_value
from aloraserve_services.intrinsics.texts import read_texts

WRONG = ("value", "value", "value", "swap", "added", "added", "missing", "contrary")
RIGHT = ("exact", "exact", "exact", "exact", "both", "both", "unknown", "rule")


class HallucinationBuilder:
    """Builds conversations about documents whose last answer is faithful or is not, one as often as the other.

    An answer is wrong by another value (``value``), the value of another fact (``swap``), a sentence more
    (``added``) or because the documents do not say what was asked (``missing``). It is right by one fact
    (``exact``), two (``both``), or by saying that the documents do not say (``unknown``). Rules are stated as they are
    (``rule``) or as their contrary (``contrary``).

    Args:
        seed: equal seeds give equal rows.
        part: that they are for.
    """

    def __init__(self, seed: int, part: Part) -> None:
        self._draw = Draw("hallucination", seed, part)
        self._part = part
        self._texts = read_texts("documents")

    def rows(self, count: int) -> Iterator[BuiltRow]:
        """Yield so many rows."""
        for number in range(count):
            kind = self._draw.pick((WRONG, RIGHT)[number % 2])
            yield self._row(f"hallucination-{self._part}-{number}", kind)

    def _row(self, name: str, kind: str) -> BuiltRow:
        draw = self._draw
        sheets = draw_sheets(draw, self._part, draw.pick([1, 1, 1, 1, 2, 3]))
        at = draw.number(0, len(sheets) - 1)
        said = {rule.question for sheet in sheets for rule in sheet.rules}
        unsaid = [rule for rule in draw_rules(draw, self._part, 8) if rule.question not in said]
        if kind in ("rule", "contrary") and not sheets[at].rules:
            sheets[at] = replace(sheets[at], rules=(unsaid.pop(),))
        question, answer = self._asked(sheets[at], unsaid, kind)
        label = "yes" if kind in WRONG else "no"
        earlier = self._earlier(sheets[at]) if draw.chance(0.2) else []
        messages, documents = grounded(draw, [*earlier, ("user", question)], [sheet.text for sheet in sheets])
        return BuiltRow(name, (*messages, ("assistant", answer)), f'"{label}"', documents, kind)

    def _asked(self, sheet: Sheet, unsaid: list[Rule], kind: str) -> tuple[str, str]:
        """Return a question and an answer of that kind, with rules that no document has."""
        draw = self._draw
        fact = draw.pick(sheet.facts)
        match kind:
            case "rule" | "contrary":
                rule = draw.pick(sheet.rules)
                return rule.question, rule.sentence if kind == "rule" else rule.contrary
            case "missing" | "unknown":
                other = draw.pick(sheet.left_out)
                unknown: list[str] = of_part(self._texts["unknown"] * 2, self._part)
                return other.question(draw), other.answer(draw) if kind == "missing" else draw.pick(unknown)
            case "both":
                others = [other.sentence for other in sheet.facts if other is not fact]
                others += [rule.sentence for rule in sheet.rules]
                return fact.question(draw), f"{fact.answer(draw)} {draw.pick(others)}"
            case "added":
                rules, facts = [rule.sentence for rule in unsaid], [unused.sentence for unused in sheet.left_out]
                claims = rules if rules and draw.chance(0.5) else facts
                return fact.question(draw), f"{fact.answer(draw)} {draw.pick(claims)}"
            case "exact":
                return fact.question(draw), fact.answer(draw)
        return fact.question(draw), fact.answer(draw, self._changed(sheet, fact, is_swap=kind == "swap"))

    def _changed(self, sheet: Sheet, fact: Fact, *, is_swap: bool) -> dict[str, str]:
        """Return a fact's values with one of them another: of another fact if there is one, else one of no fact."""
        kind = self._draw.pick(list(fact.values))
        others = [
            other.values[kind]
            for other in sheet.facts
            if other.values.get(kind, fact.values[kind]) != fact.values[kind]
        ]
        if is_swap and others:
            return fact.values | {kind: self._draw.pick(others)}
        value = draw_value(self._draw, kind, self._part)
        while value in sheet.text:
            value = draw_value(self._draw, kind, self._part)
        return fact.values | {kind: value}

    def _earlier(self, sheet: Sheet) -> Messages:
        fact = self._draw.pick(sheet.facts)
        return [("user", fact.question(self._draw)), ("assistant", fact.answer(self._draw))]
