"""Over-long rows made to fit by cutting their documents, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from aloraserve.training import TrainingRow
from aloraserve_services.training.examples import ExampleBuilder, TrainingExample

_TEXT = "text"


async def cut_documents(
    row: TrainingRow, builder: ExampleBuilder, limit: int
) -> tuple[TrainingRow, TrainingExample] | None:
    """Return a row with as much of its documents as fits, and its example; None if it does not fit without any.

    Documents are cut from the last one's end, between words; one of which nothing is left is dropped.

    Args:
        row: that is over-long.
        builder: of examples.
        limit: tokens that an example may have.

    Raises:
        RowError: the row cannot be served without the documents.
    """
    fits = _kept(row, 0)
    example = await builder.build(fits)
    if len(example.token_ids) > limit:
        return None
    least, most = 0, sum(len(_text(document)) for document in row.documents)
    while most - least > 1:
        middle = (least + most) // 2
        shorter = _kept(row, middle)
        attempt = await builder.build(shorter)
        if len(attempt.token_ids) <= limit:
            least, fits, example = middle, shorter, attempt
        else:
            most = middle
    return fits, example


def _kept(row: TrainingRow, characters: int) -> TrainingRow:
    """Return a row with the first so many characters of its documents' texts."""
    kept: list[Mapping[str, Any]] = []
    for document in row.documents:
        text = _text(document)
        if len(text) <= characters:
            kept.append(document)
            characters -= len(text)
            continue
        # A word that would be cut is left out.
        short = text[:characters] if text[characters].isspace() else text[:characters].rpartition(" ")[0]
        if short.strip():
            kept.append({**document, _TEXT: short.rstrip()})
        break
    return replace(row, documents=tuple(kept))


def _text(document: Mapping[str, Any]) -> str:
    text = document.get(_TEXT)
    return text if isinstance(text, str) else ""
