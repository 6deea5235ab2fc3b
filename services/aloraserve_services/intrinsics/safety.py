"""Rows for the safety intrinsic: is the user's last message a request that must be refused (Y) or not (N)?

After arXiv 2504.12397, section 4: the judgement is of the prompt, whatever was answered.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from aloraserve_services.intrinsics.draw import Draw
from aloraserve_services.intrinsics.row import BuiltRow, Part, of_part
from aloraserve_services.intrinsics.sheets import document_text
from aloraserve_services.intrinsics.texts import fill, read_texts

Messages = tuple[tuple[str, str], ...]
LONG = 0.04
"""Share of the conversations whose user messages have several documents each, up to a thousand tokens in all."""
SENTENCES = {"Y": "The last message asks for something harmful.", "N": "The last message is harmless."}
"""The answers of the variant that says it in a sentence."""


@dataclass(frozen=True, slots=True)
class Request:
    """A user's request.

    Args:
        family: what kind of request it is.
        text: as it is asked.
        goal: what it asks for, as an infinitive without "to"; empty if it is a question.
    """

    family: str
    text: str
    goal: str = ""


def rows_by_hand() -> list[BuiltRow]:
    """Return rows whose messages we wrote one by one, in other styles than the generated ones: a second test."""
    texts: dict[str, list[str]] = read_texts("safety_by_hand")
    return [
        BuiltRow(f"safety-by-hand-{label}-{number}", (("user", text),), label, family=f"{kind}/by hand")
        for kind, label in (("unsafe", "Y"), ("benign", "N"))
        for number, text in enumerate(texts[kind])
    ]


class SafetyBuilder:
    """Builds conversations whose last user message is safe or is not, one as often as the other.

    Args:
        seed: equal seeds give equal rows.
        part: that they are for.
        answers: what is answered for unsafe (Y) and safe (N).
    """

    def __init__(self, seed: int, part: Part, answers: dict[str, str] | None = None) -> None:
        self._draw = Draw("safety", seed, part)
        self._part = part
        self._answers = answers or {"Y": "Y", "N": "N"}
        self._texts = read_texts("safety")

    def rows(self, count: int) -> Iterator[BuiltRow]:
        """Yield so many rows."""
        for number in range(count):
            label = "YN"[number % 2]
            request = self._request(label)
            yield BuiltRow(
                f"safety-{self._part}-{number}",
                self._conversation(request),
                self._answers[label],
                family=request.family,
            )

    def _request(self, label: str) -> Request:
        kind = "unsafe" if label == "Y" else "benign"
        if self._draw.chance(0.12):
            questions = of_part(self._texts[f"{kind}_questions"], self._part)
            return Request(f"{kind}/question", self._draw.pick(questions))
        topic, goals = self._topic(self._texts[kind])
        goal = fill(self._draw.pick(goals), self._texts["slots"], self._draw)
        framing = self._draw.pick(self._texts["framings"][self._part])
        return Request(f"{kind}/{topic}", framing.format(goal=goal), goal)

    def _topic(self, topics: dict[str, list[str]]) -> tuple[str, list[str]]:
        """Return a topic and its goals; harmless ones that sound harmful are the most frequent."""
        held_out = self._texts["held_out"]
        is_test = self._part is Part.TEST
        if "lookalikes" in topics and self._draw.chance(0.4):
            topic = self._draw.pick(["lookalikes", "prevention"])
        else:
            topic = self._draw.pick([name for name in topics if is_test or name not in held_out])
        return topic, topics[topic] if topic in held_out else of_part(topics[topic], self._part)

    def _conversation(self, request: Request) -> Messages:
        draw = self._draw
        documents = draw.number(4, 8) if draw.chance(LONG) else 0
        messages: list[tuple[str, str]] = []
        if draw.chance(0.4):
            messages.append(("system", self._system()))
        for _ in range(draw.pick([0, 1, 2] if documents else [0, 0, 0, 1, 1, 2])):
            # Only the last message counts: an earlier one may have been the other way.
            earlier = self._request("Y" if draw.chance(0.2) else "N")
            messages += [("user", self._documented(earlier, documents)), ("assistant", self._answer(earlier))]
        # Documents before earlier messages alone leave the last one as short as any.
        last = documents if draw.chance(0.6) else int(not documents and draw.chance(0.3))
        messages.append(("user", self._documented(request, last)))
        if draw.chance(0.4):
            messages.append(("assistant", self._answer(request)))
        return tuple(messages)

    def _documented(self, request: Request, documents: int) -> str:
        """Return a message of a request after so many documents; several of them may have words that sound harmful."""
        draw = self._draw
        texts = [document_text(draw, self._part) for _ in range(documents)]
        if documents > 1:
            texts[1:1] = draw.some(of_part(self._texts["warnings"], self._part), draw.number(0, 4))
        return "\n\n".join([*texts, request.text])

    def _system(self) -> str:
        text = self._draw.pick(self._texts["systems"])
        return f"{text}\n{document_text(self._draw, self._part)}" if self._draw.chance(0.15) else str(text)

    def _answer(self, request: Request) -> str:
        """Return an answer: to the request in words of its own, about something else, or one that fits anything."""
        draw = self._draw
        if draw.chance(0.2):
            return document_text(draw, self._part)
        if request.goal and draw.chance(0.4):
            return str(draw.pick(of_part(self._texts["answers_to_goals"], self._part))).format(goal=request.goal)
        return str(draw.pick(of_part(self._texts["answers"], self._part)))
