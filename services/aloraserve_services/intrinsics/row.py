"""A row of training data as builders make it, and the three parts that rows are built for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

T = TypeVar("T")


class Part(StrEnum):
    """A part of the data; what a test asks is worded of what no other part has."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class BuiltRow:
    """One example.

    Args:
        conversation: its name; rows of one conversation are never in two parts.
        messages: role and content of each.
        completion: the answer that is right.
        documents: texts that the conversation is grounded on.
        family: of the rows that it was made like; results are also shown by family.
    """

    conversation: str
    messages: tuple[tuple[str, str], ...]
    completion: str
    documents: tuple[str, ...] = ()
    family: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        """Return the row as a line of JSONL, in the form that ``aloraserve train`` reads."""
        row: dict[str, Any] = {
            "conversation": self.conversation,
            "messages": [{"role": role, "content": content} for role, content in self.messages],
            "completion": self.completion,
        }
        if self.documents:
            row["documents"] = [{"doc_id": str(number), "text": text} for number, text in enumerate(self.documents, 1)]
        row["metadata"] = {"family": self.family, **self.extra}
        return json.dumps(row, ensure_ascii=False)


def of_part(entries: Sequence[T], part: Part) -> list[T]:
    """Return the entries of a list that a part may use: two of ten are the test's, one is the validation's."""
    numbers = {Part.TEST: (4, 9), Part.VALIDATION: (6,)}.get(part, (0, 1, 2, 3, 5, 7, 8))
    return [entry for number, entry in enumerate(entries) if number % 10 in numbers]
