"""Conversations for a fleet that grows and shrinks: their number follows a plan, each turn goes on with the last.

A turn's prompt is the one before with new tokens behind it, so that what might have been reused is known to the block.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from aloraserve.wire.answer_stream import CallFailedError
from benchmarks.harness.client import AsyncStreamingClient

BLOCK_TOKENS = 32
VOCABULARY = range(1000, 40_000)


@dataclass(frozen=True, slots=True)
class Shape:
    """What a conversation is like.

    Args:
        opening_tokens: of its first prompt.
        turn_tokens: that each further turn adds.
        turns: that it has.
        answer_tokens: of each answer.
        think_s: between an answer and the next turn.
    """

    opening_tokens: int = 600
    turn_tokens: int = 120
    turns: int = 10
    answer_tokens: int = 16
    think_s: float = 0.2


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the plan.

    Args:
        seconds: that it takes.
        conversations: at a time.
    """

    seconds: float
    conversations: int


@dataclass(frozen=True, slots=True)
class Turn:
    """An answered turn.

    Args:
        at_s: when it was sent, from the plan's begin.
        ttft_s: of it.
        reusable_tokens: leading tokens that the fleet has computed before, in whole blocks.
        cached_tokens: that were not prefilled.
        replica: that answered.
    """

    at_s: float
    ttft_s: float
    reusable_tokens: int
    cached_tokens: int
    replica: str


@dataclass
class ScalingLoad:
    """Plays conversations by a plan.

    Args:
        url: of the platform.
        model: base model's name.
        shape: of conversations.
        seed: of their tokens.

    Attributes:
        turns: that were answered.
        failures: what became of the others.
    """

    url: str
    model: str
    shape: Shape
    seed: int = 0
    turns: list[Turn] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._client = AsyncStreamingClient(self.url, with_usage=True)
        self._random = random.Random(self.seed)  # noqa: S311 - no secret
        self._begun_at = time.monotonic()
        self._wanted = 0
        self._number = 0

    @property
    def elapsed_s(self) -> float:
        """Since the plan's begin."""
        return time.monotonic() - self._begun_at

    async def play(self, stages: Sequence[Stage]) -> None:
        """Play all stages; conversations of the last one are played to their end of a turn."""
        self._begun_at = time.monotonic()
        places: set[asyncio.Task[None]] = set()
        for stage in stages:
            self._wanted = stage.conversations
            for place in range(len(places), stage.conversations):
                task = asyncio.create_task(self._converse(place))
                places.add(task)
                task.add_done_callback(places.discard)
            await asyncio.sleep(stage.seconds)
        self._wanted = 0
        await asyncio.gather(*places)

    async def _converse(self, place: int) -> None:
        """Hold one conversation after the other while the plan has so many."""
        while place < self._wanted:
            prompt = self._tokens(self.shape.opening_tokens)
            before = 0
            for _ in range(self.shape.turns):
                if place >= self._wanted:
                    return
                await self._ask(prompt, before // BLOCK_TOKENS * BLOCK_TOKENS)
                before = len(prompt)
                prompt = prompt + self._tokens(self.shape.turn_tokens)
                await asyncio.sleep(self.shape.think_s)

    async def _ask(self, prompt: list[int], reusable_tokens: int) -> None:
        self._number += 1
        at_s = self.elapsed_s
        try:
            answer = await self._client.complete(
                f"scaling-{self._number}", self.model, prompt, self.shape.answer_tokens
            )
        except CallFailedError as error:
            self.failures.append(f"{at_s:.1f} s: {error}")
            return
        self.turns.append(Turn(at_s, answer.ttft_s, reusable_tokens, answer.cached_tokens, answer.replica))

    def _tokens(self, count: int) -> list[int]:
        return self._random.choices(VOCABULARY, k=count)


def reused(turns: Sequence[Turn]) -> float:
    """Return the share of what might have been reused that was; 1 where there was nothing."""
    reusable = sum(turn.reusable_tokens for turn in turns)
    return sum(min(turn.cached_tokens, turn.reusable_tokens) for turn in turns) / reusable if reusable else 1.0
