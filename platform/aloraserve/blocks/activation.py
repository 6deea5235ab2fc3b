"""Where an aLoRA adapter starts to change weights."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from aloraserve.errors import InvalidRequestError


def activation_point(token_ids: Sequence[int], invocation_ids: Sequence[int]) -> int | None:
    """Return the index at which the last occurrence of the invocation starts.

    The rule is PEFT's (``peft.tuners.lora.variants.calculate_alora_offsets``): by token ids, never by text.

    Args:
        token_ids: the prompt.
        invocation_ids: the adapter's ``alora_invocation_tokens``, at least one.

    Returns:
        The index of the first token that the adapter changes, or None if the invocation does not occur.

    Raises:
        InvalidRequestError: the invocation is empty.
    """
    width = len(invocation_ids)
    if width == 0:
        raise InvalidRequestError("the invocation is empty; an aLoRA adapter has at least one invocation token")
    # Mostly one of its tokens occurs nowhere, and looking for each is the quickest.
    if any(token not in token_ids for token in invocation_ids):
        return None
    tokens, wanted = array("q", token_ids), array("q", invocation_ids)
    return _last_place(tokens.tobytes(), wanted.tobytes(), tokens.itemsize)


def _last_place(data: bytes, wanted: bytes, item_bytes: int) -> int | None:
    """Return the last place of ``wanted`` in ``data``, in items; a match between two items is none."""
    place = data.rfind(wanted)
    while place % item_bytes and place >= 0:
        place = data.rfind(wanted, 0, place + len(wanted) - 1)
    return place // item_bytes if place >= 0 else None
