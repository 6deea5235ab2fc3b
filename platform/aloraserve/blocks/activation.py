"""Where an aLoRA adapter starts to change weights."""

from __future__ import annotations

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
    wanted = list(invocation_ids)
    for start in range(len(token_ids) - width, -1, -1):
        if token_ids[start] == wanted[0] and list(token_ids[start : start + width]) == wanted:
            return start
    return None
