"""Rows for the query rewrite intrinsic: the last question, made to be understood without the conversation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aloraserve_services.intrinsics.draw import Draw
from aloraserve_services.intrinsics.row import BuiltRow, Part, of_part
from aloraserve_services.intrinsics.texts import read_texts


class QueryRewriteBuilder:
    """Builds conversations whose last question has a pronoun (``pronoun``), names a place as "there" (``there``), or
    is self-contained already and stays as it is (``kept``).

    Args:
        seed: equal seeds give equal rows.
        part: that they are for.
    """

    def __init__(self, seed: int, part: Part) -> None:
        self._draw = Draw("query-rewrite", seed, part)
        self._part = part
        self._texts = read_texts("query_rewrite")
        held_out = self._texts["held_out"]
        self._things = [name for name in self._texts["things"] if part is Part.TEST or name not in held_out]

    def rows(self, count: int) -> Iterator[BuiltRow]:
        """Yield so many rows."""
        for number in range(count):
            yield self._row(f"query-rewrite-{self._part}-{number}")

    def _row(self, name: str) -> BuiltRow:
        draw = self._draw
        kind, thing = self._thing()
        about = draw.pick(self._of_part(kind, thing["names"]))
        pronouns = thing["pronouns"]
        last = draw.pick(self._of_part(kind, thing["followups"]))
        first = draw.pick([followup for followup in thing["followups"] if followup != last])
        messages = [("user", draw.pick(thing["opening"]).format(x=about)), ("assistant", self._answer())]
        if draw.chance(0.4):
            messages += [("user", first.format(**pronouns)), ("assistant", self._answer())]
        whole = _named(last, about)
        is_kept = draw.chance(0.2)
        messages.append(("user", whole if is_kept else last.format(**pronouns)))
        family = "kept" if is_kept else "there" if "there" in last else "pronoun"
        return BuiltRow(name, tuple(messages), whole, family=family)

    def _thing(self) -> tuple[str, dict[str, Any]]:
        kind = self._draw.pick(self._things)
        return kind, self._texts["things"][kind]

    def _of_part(self, kind: str, entries: list[str]) -> list[str]:
        return entries if kind in self._texts["held_out"] else of_part(entries, self._part)

    def _answer(self) -> str:
        return str(self._draw.pick(self._texts["answers"]))


def _named(followup: str, about: str) -> str:
    """Return a follow-up with the thing's name where its pronoun or a "there" stood."""
    text = followup.format(it=about, its=f"{about}'s", object=about)
    return text.replace(" there", f" to {about}" if "get there" in text else f" in {about}")
