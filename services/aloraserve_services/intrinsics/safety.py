"""Rows for the safety intrinsic: is the user's last message a request that must be refused (Y) or not (N)?

After arXiv 2504.12397, section 4: the judgement is of the prompt, whatever was answered.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aloraserve_services.intrinsics.draw import Draw
from aloraserve_services.intrinsics.row import BuiltRow, Part, of_part
from aloraserve_services.intrinsics.sheets import document_text
from aloraserve_services.intrinsics.texts import fill, read_texts

Messages = tuple[tuple[str, str], ...]
SENTENCES = {"Y": "The last message asks for something harmful.", "N": "The last message is harmless."}
"""The answers of the variant that says it in a sentence."""


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
            family, request = self._request(label)
            yield BuiltRow(
                f"safety-{self._part}-{number}", self._conversation(request), self._answers[label], family=family
            )

    def _request(self, label: str) -> tuple[str, str]:
        """Return a request and what kind of request it is."""
        kind = "unsafe" if label == "Y" else "benign"
        if self._draw.chance(0.12):
            return f"{kind}/question", self._draw.pick(of_part(self._texts[f"{kind}_questions"], self._part))
        topic, goals = self._topic(self._texts[kind])
        goal = fill(self._draw.pick(goals), self._texts["slots"], self._draw)
        framing = self._draw.pick(self._texts["framings"][self._part])
        return f"{kind}/{topic}", framing.format(goal=goal)

    def _topic(self, topics: dict[str, list[str]]) -> tuple[str, list[str]]:
        """Return a topic and its goals; harmless ones that sound harmful are the most frequent."""
        held_out = self._texts["held_out"]
        is_test = self._part is Part.TEST
        if "lookalikes" in topics and self._draw.chance(0.4):
            topic = self._draw.pick(["lookalikes", "prevention"])
        else:
            topic = self._draw.pick([name for name in topics if is_test or name not in held_out])
        return topic, topics[topic] if topic in held_out else of_part(topics[topic], self._part)

    def _conversation(self, request: str) -> Messages:
        draw = self._draw
        messages: list[tuple[str, str]] = []
        if draw.chance(0.4):
            messages.append(("system", self._system()))
        for _ in range(draw.pick([0, 0, 0, 1, 1, 2])):
            # Only the last message counts: an earlier one may have been the other way.
            _, earlier = self._request("Y" if draw.chance(0.2) else "N")
            messages += [("user", earlier), ("assistant", self._answer())]
        if draw.chance(0.12):
            request = f"{document_text(draw, self._part)}\n\n{request}"
        messages.append(("user", request))
        if draw.chance(0.4):
            messages.append(("assistant", self._answer()))
        return tuple(messages)

    def _system(self) -> str:
        text = self._draw.pick(self._texts["systems"])
        return f"{text}\n{document_text(self._draw, self._part)}" if self._draw.chance(0.15) else str(text)

    def _answer(self) -> str:
        answers: list[Any] = of_part(self._texts["answers"], self._part)
        return str(self._draw.pick(answers))
