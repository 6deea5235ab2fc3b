"""A tokenized prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aloraserve.blocks import BlockKey


@dataclass(frozen=True, slots=True)
class Prompt:
    """A tokenized prompt.

    Args:
        token_ids: of all of it, an aLoRA's invocation included.
        activation: index of the first token that the adapter changes, None for the base model.
        known: keys of its first blocks as the base model has them.
        text: what the client sent, if these are its tokens and no others.
    """

    token_ids: list[int]
    activation: int | None
    known: Sequence[BlockKey] = ()
    text: str | None = None
