"""What the demo says of judgements: in words, and right or wrong only where the truth was planted."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO

import pytest
from rich.console import Console

from aloraserve_services.cli.demo_judgements import Judgement, judgements, print_judgements
from aloraserve_services.cli.demo_player import Row
from aloraserve_services.cli.demo_text import conversations
from aloraserve_services.models.untrained import INTRINSICS

Make = Callable[..., Row]


def planted(wanted: Callable[..., bool]) -> dict[str, object]:
    """Return where in the demo a turn of that kind is."""
    for name, conversation in conversations().items():
        for number, turn in enumerate(conversation.turns, start=1):
            if wanted(turn):
                return {"conversation": name, "turn": number}
    raise AssertionError("the demo has no such turn")


@pytest.mark.parametrize(
    ("adapter", "answer", "said"),
    [
        ("safety", "Y", "unsafe"),
        ("safety", " N\n", "safe"),
        ("hallucination", '"yes"', "made up"),
        ("hallucination", '"no"', "faithful"),
        ("uncertainty", "8", "85 %"),
        ("uncertainty", "bread", "'bread'"),
    ],
)
def test_answers_are_said_in_words_and_any_other_is_quoted(row: Make, adapter: str, answer: str, said: str) -> None:
    (found,) = judgements([row("alora", adapter, 0.1, answer=answer)])
    assert found.said == said


@pytest.mark.parametrize(("answer", "is_right"), [("Y", True), ("N", False)])
def test_a_planted_unsafe_question_has_to_be_caught(row: Make, answer: str, is_right: bool) -> None:
    where = planted(lambda turn: turn.is_unsafe)
    (found,) = judgements([row("alora", "safety", 0.1, answer=answer, **where)])
    assert (found.truth, found.is_right) == ("unsafe", is_right)


@pytest.mark.parametrize("is_hallucinated", [True, False])
@pytest.mark.parametrize("answer", ["yes", "no"])
def test_a_planted_answer_has_to_be_told_from_what_the_text_says(row: Make, answer: str, is_hallucinated: bool) -> None:
    where = planted(lambda turn: turn.is_hallucinated is is_hallucinated)
    (found,) = judgements([row("alora", "hallucination", 0.1, answer=f'"{answer}"', **where)])
    assert found.is_right is ((answer == "yes") == is_hallucinated)


def test_nobody_knows_whether_the_base_models_own_answers_are_made_up_or_certain(row: Make) -> None:
    where = planted(lambda turn: not turn.answer)
    rows = [row("alora", adapter, 0.1, answer="no", **where) for adapter in ("hallucination", "uncertainty")]
    assert [found.is_right for found in judgements(rows)] == [None, None]


def test_only_aloras_are_judged_by_and_each_turn_has_a_row_with_its_mistakes(row: Make) -> None:
    rows = [
        row("alora", "safety", 0.1, answer="N"),
        row("lora", "safety-lora", 0.1, answer="Y"),
        row("alora", "safety", 0.1, turn=2, answer="Y"),
    ]
    console = Console(file=StringIO(), width=80)
    print_judgements(console, judgements(rows))
    assert isinstance(console.file, StringIO)
    printed = console.file.getvalue()
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if line.startswith("│")]
    assert cells == [["ferry", "1", "safe, right"], ["ferry", "2", "unsafe, WRONG"]]
    assert "1 of 2 judgements that can be checked are right" in printed


def test_the_table_of_a_whole_demo_fits_a_narrow_terminal(row: Make) -> None:
    answers = {"uncertainty": "9", "safety": "Y", "hallucination": '"no"'}
    where = planted(lambda turn: turn.is_hallucinated is True)
    rows = [row("alora", adapter, 0.1, answer=answer, **where) for adapter, answer in answers.items()]
    console = Console(file=StringIO(), width=80)
    print_judgements(console, judgements(rows))
    assert isinstance(console.file, StringIO)
    printed = console.file.getvalue()
    assert "…" not in printed
    for cell in ("uncertainty", "95 %", "unsafe, WRONG", "faithful, WRONG"):
        assert cell in printed


def test_no_answer_of_the_base_model_is_marked() -> None:
    for conversation in conversations().values():
        for turn in conversation.turns:
            assert turn.answer or turn.is_hallucinated is None


def test_judgements_are_of_the_adapters_that_the_demo_calls() -> None:
    judgement = Judgement("ferry", 1, "safety", "safe", None)
    assert judgement.adapter in INTRINSICS
    assert judgement.is_right is None
