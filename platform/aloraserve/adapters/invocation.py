"""How an aLoRA's invocation gets into a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum


class InvocationMode(StrEnum):
    """Where an adapter's invocation stands; an adapter acts only as it was trained if it stands there in a call too."""

    APPENDED = "appended"
    """In place of the generation prompt: the last tokens of the prompt (Granite 3.2 and 3.3)."""
    INSTRUCTION = "instruction"
    """In the text of one more user message, the instruction, before the generation prompt (Granite 4.0 and 4.1)."""
    GENERATION_PROMPT = "generation_prompt"
    """It is the generation prompt itself (Granite 4.2)."""


def derived_mode(
    invocation_ids: Sequence[int],
    generation_prompt_ids: Sequence[int],
    *,
    text: str = "",
    instruction: str | None = None,
) -> InvocationMode:
    """Return the mode of an adapter whose files name none.

    Args:
        invocation_ids: the adapter's ``alora_invocation_tokens``.
        generation_prompt_ids: the last tokens of a conversation that is rendered with its generation prompt.
        text: of the invocation.
        instruction: of the adapter's intrinsic, None without one.
    """
    if instruction and text and text in instruction:
        return InvocationMode.INSTRUCTION
    width = len(invocation_ids)
    is_prompt = width and tuple(generation_prompt_ids[-width:]) == tuple(invocation_ids)
    return InvocationMode.GENERATION_PROMPT if is_prompt else InvocationMode.APPENDED
