"""Conversations for the live comparison of routers: shared documents, turns, evaluators after each answer."""

from __future__ import annotations

import random
from dataclasses import dataclass

CONVERSATIONS = 72
TURNS = 5
DOCUMENTS = 6
DOCUMENT_TOKENS = 1200
NEW_TOKENS = (60, 400)
ANSWER_TOKENS = 24
EVALUATOR_TOKENS = 3
THINK_S = 1.5
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
        name: the client's id of it.
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
        rate_per_s: new conversations a second.
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
