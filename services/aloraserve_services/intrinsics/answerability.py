"""Rows for the answerability intrinsic: can the documents answer the last question, or can they not?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aloraserve.errors import SettingsError
from aloraserve_services.intrinsics.draw import Draw
from aloraserve_services.intrinsics.grounding import grounded
from aloraserve_services.intrinsics.row import BuiltRow, Part
from aloraserve_services.intrinsics.sheets import draw_sheets

MAX_DATA_BYTES = 64 * 1024 * 1024
ROLES = {"user": "user", "agent": "assistant"}
LABELS = {"ANSWERABLE": "answerable", "UNANSWERABLE": "unanswerable"}
"""MTRAG-UN's labels that say yes or no; its partial and underspecified questions are neither."""


class AnswerabilityBuilder:
    """Builds questions about documents that say the answer (``said``), are about the right thing and do not say it
    (``left out``), or are about another thing (``other``).

    Args:
        seed: equal seeds give equal rows.
        part: that they are for.
    """

    def __init__(self, seed: int, part: Part) -> None:
        self._draw = Draw("answerability", seed, part)
        self._part = part

    def rows(self, count: int) -> Iterator[BuiltRow]:
        """Yield so many rows."""
        for number in range(count):
            kind = "said" if number % 2 else self._draw.pick(["left out", "left out", "other"])
            yield self._row(f"answerability-{self._part}-{number}", kind)

    def _row(self, name: str, kind: str) -> BuiltRow:
        draw = self._draw
        # What is asked of another thing is asked of a domain that no document has.
        sheets = draw_sheets(draw, self._part, draw.pick([1, 2, 2, 3]))
        sheet = draw.pick(sheets)
        if kind == "other" and len(sheets) > 1:
            sheets.remove(sheet)
        elif kind == "other":
            kind = "left out"
        fact = draw.pick(sheet.left_out if kind == "left out" else sheet.facts)
        messages = [("user", fact.question(draw))]
        if draw.chance(0.3):
            earlier = draw.pick(sheets[0].facts)
            messages = [("user", earlier.question(draw)), ("assistant", earlier.answer(draw)), *messages]
        label = "answerable" if kind == "said" else "unanswerable"
        messages, documents = grounded(draw, messages, [shown.text for shown in sheets])
        return BuiltRow(name, tuple(messages), label, documents, kind)


def mtrag_rows(path: Path) -> dict[Part, list[BuiltRow]]:
    """Return the rows of MTRAG-UN's tasks (IBM, Apache-2.0) by part, split by conversation.

    Args:
        path: of the file of tasks, a JSON object per line with ``contexts``, ``input`` and ``answerability``.

    Raises:
        SettingsError: the file cannot be read or has more than :data:`MAX_DATA_BYTES`, or a line is not a task.
    """
    rows: dict[Part, list[BuiltRow]] = {part: [] for part in Part}
    # Not splitlines: JSON may have its other line separators within a text.
    for number, line in enumerate(_text(path).split("\n"), 1):
        if line.strip() and (row := _task_row(line, f"line {number}")) is not None:
            rows[_part_of(row.conversation)].append(row)
    return rows


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_DATA_BYTES + 1)
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--data {str(path)!r} cannot be read: {error}") from None
    if len(data) > MAX_DATA_BYTES:
        raise SettingsError(f"--data {str(path)!r} has more than {MAX_DATA_BYTES} bytes, which are accepted")
    return text


def _task_row(line: str, where: str) -> BuiltRow | None:
    try:
        task = json.loads(line)
        labels: list[str] = task["answerability"]
        messages = tuple((ROLES[message["speaker"]], str(message["text"])) for message in task["input"])
        documents = tuple(str(context["text"]).strip() for context in task["contexts"])
        name = str(task["conversation_id"])
    except (ValueError, LookupError, TypeError) as error:
        raise SettingsError(
            f"--data {where} is not a task ({type(error).__name__}: {str(error)[:80]}); MTRAG-UN's tasks.jsonl is "
            "accepted: an object per line with conversation_id, input, contexts and answerability"
        ) from None
    if len(labels) != 1 or labels[0] not in LABELS or not messages:
        return None
    collection: Any = task.get("Collection") or [""]
    return BuiltRow(name, messages, LABELS[labels[0]], documents, str(collection[0]))


def _part_of(conversation: str) -> Part:
    """Return the part of a conversation: three of ten are for validation and test."""
    number = int.from_bytes(hashlib.sha256(conversation.encode()).digest()[:4], "big") % 10
    return Part.TEST if number < 2 else Part.VALIDATION if number == 2 else Part.TRAIN
