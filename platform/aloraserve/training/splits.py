"""Rows divided by conversation, so that nothing of a conversation is both trained on and evaluated on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Literal

from aloraserve.training.rows import TrainingRow

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")

Splits = Mapping[SplitName, tuple[TrainingRow, ...]]
"""The rows of each part, in the order of their files."""


def split_rows(rows: Iterable[TrainingRow], *, validation: float, test: float, seed: int) -> Splits:
    """Return rows divided by their conversations.

    A conversation's place depends on its name and the seed alone: rows that are added move no others.

    Args:
        rows: in any order.
        validation: part of the conversations, 0 to 1.
        test: likewise.
        seed: of the division.
    """
    parts: dict[SplitName, list[TrainingRow]] = {name: [] for name in SPLITS}
    for row in rows:
        place = _place(row.conversation, seed)
        name: SplitName = "test" if place < test else "validation" if place < test + validation else "train"
        parts[name].append(row)
    return {name: tuple(found) for name, found in parts.items()}


def _place(conversation: str, seed: int) -> float:
    """Return a number from 0 to 1 (exclusive) that is a conversation's own."""
    digest = hashlib.blake2b(f"{seed}\0{conversation}".encode(), digest_size=7).digest()
    return int.from_bytes(digest) / 2**56
