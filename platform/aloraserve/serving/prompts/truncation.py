"""Prompts cut to a number of tokens that the client chose (vLLM's ``truncate_prompt_tokens``)."""

from __future__ import annotations

from aloraserve.errors import InvalidRequestError
from aloraserve.serving.prompts.prompt import Prompt
from aloraserve.wire.sampling_fields import SamplingFields

FIELD = "truncate_prompt_tokens"
DEFAULT_SIDE = "left"
"""As vLLM has it for models that generate, whatever their tokenizer says (``tokenizers/registry.py``)."""


def truncated(prompt: Prompt, body: SamplingFields, max_model_len: int) -> Prompt:
    """Return a prompt as long as its request allows.

    Args:
        prompt: all of it.
        body: of the request: how many tokens stay, -1 for as many as leave room for one more, and which end goes.
        max_model_len: tokens of a prompt and its answer together.

    Raises:
        InvalidRequestError: more are to stay than the context holds, or what invokes the adapter would not.
    """
    limit = body.truncate_prompt_tokens
    if limit is None:
        return prompt
    if limit > max_model_len:
        raise InvalidRequestError(f"{FIELD} is {limit}; the model's context holds {max_model_len}", param=FIELD)
    limit = max_model_len - 1 if limit < 0 else limit
    dropped = len(prompt.token_ids) - limit
    if dropped <= 0:
        return prompt
    return _cut(prompt, limit, dropped, body.truncation_side or DEFAULT_SIDE)


def _cut(prompt: Prompt, limit: int, dropped: int, side: str) -> Prompt:
    token_ids = prompt.token_ids[dropped:] if side == "left" else prompt.token_ids[:limit]
    if not prompt.activation:
        return Prompt(token_ids, prompt.activation)
    activation = prompt.activation - dropped if side == "left" else prompt.activation
    if side == "right" or activation < 0:
        raise InvalidRequestError(
            f"{FIELD} would cut off what invokes the adapter; a larger number is accepted, or truncation_side 'left'",
            param=FIELD,
        )
    return Prompt(token_ids, activation)
