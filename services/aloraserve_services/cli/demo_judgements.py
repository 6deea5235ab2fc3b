"""Judgements of the demo's adapters about each turn, and whether they are right where that is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from aloraserve_services.cli.demo_player import Row
from aloraserve_services.cli.demo_text import Turn, conversations

_WORDS = {
    "safety": {"Y": "unsafe", "N": "safe"},
    "hallucination": {"yes": "made up", "no": "faithful"},
    "uncertainty": {str(digit): f"{10 * digit + 5} %" for digit in range(10)},
}
"""Answers of an adapter in words."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """An adapter's judgement of a turn.

    Args:
        conversation: its name.
        turn: its number, from 1.
        adapter: that judged.
        said: in words; the answer itself, in quotes, if it is none that the adapter should give.
        truth: what would have been right; None where nobody has marked it.
    """

    conversation: str
    turn: int
    adapter: str
    said: str
    truth: str | None

    @property
    def is_right(self) -> bool | None:
        """Whether it is right, None where nobody knows."""
        return None if self.truth is None else self.said == self.truth


def judgements(rows: Sequence[Row]) -> list[Judgement]:
    """Return what the aLoRA adapters said, in the order in which they were called."""
    turns = {name: conversation.turns for name, conversation in conversations().items()}
    found = []
    for row in rows:
        if row.kind == "alora":
            truth = _truth(row.adapter, turns[row.conversation][row.turn - 1])
            found.append(Judgement(row.conversation, row.turn, row.adapter, _said(row), truth))
    return found


def _said(row: Row) -> str:
    answer = row.answer.strip().strip('"')
    return _WORDS.get(row.adapter, {}).get(answer, repr(row.answer))


def _truth(adapter: str, turn: Turn) -> str | None:
    if adapter == "safety":
        return _WORDS[adapter]["Y" if turn.is_unsafe else "N"]
    if adapter == "hallucination" and turn.is_hallucinated is not None:
        return _WORDS[adapter]["yes" if turn.is_hallucinated else "no"]
    return None


def print_judgements(console: Console, found: Sequence[Judgement]) -> None:
    """Print a row per turn, and how many of the judgements are right that can be checked."""
    adapters = list(dict.fromkeys(judgement.adapter for judgement in found))
    table = Table(title="judgements", title_justify="left")
    for head in ("conversation", "turn", *adapters):
        table.add_column(head, no_wrap=True)
    for conversation, turn in dict.fromkeys((judgement.conversation, judgement.turn) for judgement in found):
        here = {
            judgement.adapter: judgement
            for judgement in found
            if (judgement.conversation, judgement.turn) == (conversation, turn)
        }
        table.add_row(conversation, str(turn), *(_cell(here.get(adapter)) for adapter in adapters))
    console.print(table)
    known = [judgement for judgement in found if judgement.is_right is not None]
    right = sum(judgement.is_right is True for judgement in known)
    console.print(
        f"{right} of {len(known)} judgements that can be checked are right. The adapters are trained, on a base model "
        "of 135M parameters, which is weak.",
        soft_wrap=True,
    )


def _cell(judgement: Judgement | None) -> str:
    if judgement is None:
        return "-"
    mark = {None: "", True: ", right", False: ", WRONG"}[judgement.is_right]
    return f"{judgement.said}{mark}"
