"""Questions as they are asked: in a conversation of their own, after other turns, or about documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from aloraserve_services.intrinsics.draw import Draw
from aloraserve_services.intrinsics.made_questions import MadeQuestions
from aloraserve_services.intrinsics.questions import Question
from aloraserve_services.intrinsics.row import Part
from aloraserve_services.intrinsics.sheets import Fact, Sheet, draw_sheets
from aloraserve_services.intrinsics.table_questions import TableQuestions
from aloraserve_services.intrinsics.texts import read_texts

Messages = tuple[tuple[str, str], ...]
_SETTINGS = ("plain",) * 8 + ("alike",) * 6 + ("turns",) * 2 + ("documents",) * 5


_MAX_REPEATED = 1000


@dataclass(frozen=True, slots=True)
class AskedQuestion:
    """A question as it is asked.

    Args:
        messages: role and content of each, the question's the last.
        question: that can be checked.
    """

    messages: Messages
    question: Question


class QuestionSource:
    """Draws questions for one part.

    Facts are divided between the parts: operands, table rows, words and the documents' domains. Wordings and some
    families are the test's alone.

    Args:
        seed: equal seeds give equal questions.
        part: that they are for.
    """

    def __init__(self, seed: int, part: Part) -> None:
        self._draw = Draw("questions", seed, part)
        self._part = part
        self._tables = TableQuestions(self._draw, part)
        self._made = MadeQuestions(self._draw, part)
        self._systems: list[str] = read_texts("questions")["systems"]
        self._readers: list[str] = read_texts("documents")["systems"]

    def asked(self) -> AskedQuestion:
        """Return another question, perhaps one that was there before."""
        setting = self._draw.pick(_SETTINGS)
        if setting == "documents":
            return self._of_documents()
        kind = self._kind()
        question = kind()
        makers = {"alike": [kind] * self._draw.number(1, 4), "turns": [self._kind(), self._kind()]}.get(setting, [])
        earlier = [made for make in makers if (made := make()).fact != question.fact]
        system = (("system", self._draw.pick(self._systems)),) if self._draw.chance(0.85) else ()
        return AskedQuestion((*system, *_answered(earlier), ("user", question.text)), question)

    def _kind(self) -> Callable[[], Question]:
        return self._made.kind() if self._draw.number(0, 2) == 2 else self._tables.kind()

    def _of_documents(self) -> AskedQuestion:
        """Return a question about documents in the system message, or before the first or each question."""
        draw = self._draw
        sheets = draw_sheets(draw, self._part, draw.pick([1, 1, 1, 2, 3, 6]))
        sheet = draw.pick(sheets)
        fact = draw.pick([fact for fact in sheet.facts if len(fact.values) == 1] or list(sheet.facts))
        question = self._document_question(sheet, fact)
        others = [other for other in sheet.facts if other is not fact]
        earlier = self._turn(draw.pick(others)) if others and draw.chance(0.5) else ()
        turns: Messages = (*earlier, ("user", question.text))
        texts = [shown.text for shown in sheets]
        place = draw.pick(["system", "system", "system", "first", "first", "each"])
        if place == "system":
            return AskedQuestion((("system", "\n".join([draw.pick(self._readers), *texts])), *turns), question)
        system = (("system", draw.pick(self._readers)),)
        if place == "each" and len(sheets) > 1:
            other = next(shown for shown in sheets if shown is not sheet)
            (_, asked), answer = self._turn(draw.pick(other.facts))
            turns = (("user", f"{other.text}\n\n{asked}"), answer, ("user", f"{sheet.text}\n\n{question.text}"))
            return AskedQuestion((*system, *turns), question)
        (role, asked), *rest = turns
        return AskedQuestion((*system, (role, "\n\n".join([*texts, asked])), *rest), question)

    def _turn(self, fact: Fact) -> Messages:
        return ("user", fact.question(self._draw)), ("assistant", fact.answer(self._draw))

    def _document_question(self, sheet: Sheet, fact: Fact) -> Question:
        key = f"{sheet.domain}: {fact.sentence}"
        [value, *_] = fact.values.values()
        return Question(fact.question(self._draw), (value,), family=f"document {next(iter(fact.values))}", fact=key)


def _answered(questions: Sequence[Question]) -> Messages:
    """Return turns that ask for other facts, each with a right answer."""
    return tuple(turn for each in questions for turn in (("user", each.text), ("assistant", f"{each.right[0]}.")))


def asked_questions(seed: int, part: Part) -> Iterator[AskedQuestion]:
    """Yield different questions for a part, until there seem to be no more."""
    source = QuestionSource(seed, part)
    seen: set[str] = set()
    repeated = 0
    while repeated < _MAX_REPEATED:
        asked = source.asked()
        # A document's question is short, and another document makes it another question.
        is_known = (key := f"{asked.question.fact}\n{asked.question.text}") in seen
        repeated = repeated + 1 if is_known else 0
        if not is_known:
            seen.add(key)
            yield asked
