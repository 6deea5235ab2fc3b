"""The tokens that only a chat template may write: what they mean to a model is who speaks, and where a turn ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

from aloraserve.serving.prompts.token_pattern import pattern_of_tokens

_ROLES = (("user", "assistant", "user"), ("system", "user"))
"""Conversations in which a template shows what it writes around messages; some refuse a system message."""


def template_tokens(tokenizer: Any) -> frozenset[str]:
    """Return the texts of the tokens that count only where a template writes them.

    These are the special tokens; the added tokens that the template writes around messages, which some models do not
    declare special (DeepSeek's roles); and those in which one of both is a part.

    Args:
        tokenizer: a ``transformers`` one.
    """
    if getattr(tokenizer, "split_special_tokens", False):
        return frozenset()
    added = list(getattr(tokenizer, "added_tokens_decoder", {}).values())
    tokens = {token.content for token in added if token.special}
    tokens |= _written(tokenizer, [token.content for token in added if not token.special])
    return frozenset(token.content for token in added if any(part in token.content for part in tokens))


def _written(tokenizer: Any, tokens: Iterable[str]) -> set[str]:
    """Return those tokens that the template writes around messages; words and spaces are not told from text."""
    marks = [token for token in tokens if token.strip() and not token.strip().isalnum()]
    finder = pattern_of_tokens(marks)
    return set() if finder is None else {found for text in _renderings(tokenizer) for found in finder.findall(text)}


def _renderings(tokenizer: Any) -> Iterable[str]:
    for roles in _ROLES:
        messages = [{"role": role, "content": "x"} for role in roles]
        # A template may be missing, or refuse these messages with an error of any kind.
        with contextlib.suppress(Exception):
            yield str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False))
