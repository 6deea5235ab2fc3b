"""Conversations for the live comparison of routers: shared documents, turns, evaluators after each answer."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from aloraserve.blocks import AdapterEffect, BlockKey, KeySpace

CONVERSATIONS = 72
TURNS = 5
DOCUMENTS = 6
DOCUMENT_TOKENS = 1200
NEW_TOKENS = (60, 400)
ANSWER_TOKENS = 24
EVALUATOR_TOKENS = 3
ALORA_EVALUATORS = 2
"""After each answer, and one plain LoRA."""
THINK_S = 1.5
Kind = Literal["base", "alora", "lora"]
_TOKENS = (1000, 40_000)
"""Ordinary tokens of any vocabulary that a small model has."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn.

    Args:
        token_ids: new ones, after the conversation so far.
        think_s: from the end of the turn before to this one.
    """

    token_ids: list[int]
    think_s: float


@dataclass(frozen=True, slots=True)
class Conversation:
    """One conversation.

    Args:
        name: the id that the client gives it.
        start_s: since the start of the run.
        document: token ids that it begins with, shared with others.
        turns: in order.
    """

    name: str
    start_s: float
    document: list[int]
    turns: list[Turn]


def conversations(rate_per_s: float, seed: int, count: int = CONVERSATIONS) -> list[Conversation]:
    """Return the conversations in the order of their starts, which are a Poisson process.

    Equal seeds have equal content at every rate; only the starts differ.

    Args:
        rate_per_s: new conversations per second.
        seed: of everything.
        count: how many.

    Raises:
        ValueError: the rate or the count is not positive.
    """
    if rate_per_s <= 0 or count < 1:
        raise ValueError(f"rate is {rate_per_s} and count is {count}; both have to be positive")
    content = random.Random(f"content {seed}")  # noqa: S311
    starts = random.Random(f"starts {seed}")  # noqa: S311
    documents = [_tokens(content, DOCUMENT_TOKENS) for _ in range(DOCUMENTS)]
    found, start_s = [], 0.0
    for number in range(count):
        start_s += starts.expovariate(rate_per_s)
        document = documents[content.randrange(DOCUMENTS)]
        found.append(Conversation(f"conversation-{number}", start_s, document, _turns(content)))
    return found


def _turns(content: random.Random) -> list[Turn]:
    return [
        Turn(_tokens(content, content.randint(*NEW_TOKENS)), content.expovariate(1 / THINK_S) if number else 0.0)
        for number in range(TURNS)
    ]


def _tokens(content: random.Random, count: int) -> list[int]:
    return [content.randrange(*_TOKENS) for _ in range(count)]


def hit_bound(made: Sequence[Conversation], block_tokens: int) -> float:
    """Return the share of prompt tokens that one endless cache has when the calls come one after the other.

    A plain LoRA's blocks are its own: its first call on a conversation's new tokens computes them again.

    Args:
        made: the conversations.
        block_tokens: tokens per block.
    """
    space = KeySpace("bound", "bound", block_tokens)
    seen: set[BlockKey] = set()
    cached = total = 0
    for number, conversation in enumerate(made):
        prompt = list(conversation.document)
        for turn in conversation.turns:
            prompt += turn.token_ids
            # A second aLoRA finds what the first one found: its blocks before the activation are the base model's.
            for kind, calls in (("base", 1), ("alora", ALORA_EVALUATORS), ("lora", 1)):
                start = {"base": None, "alora": len(prompt), "lora": 0}[kind]
                effect = None if start is None else AdapterEffect(kind, kind, start)
                keys = space.keys(prompt, adapter=effect)
                held = next((index for index, key in enumerate(keys) if key not in seen), len(keys))
                cached += calls * min(held, (len(prompt) - 1) // block_tokens) * block_tokens
                total += calls * len(prompt)
                seen.update(keys)
                if kind == "base":
                    # Any answer is sufficient, as long as no two conversations share it.
                    prompt += [number] * ANSWER_TOKENS
                    seen.update(space.keys(prompt[:-1]))
    return cached / total
