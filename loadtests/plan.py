"""Plan of a load test: phases, one after the other, each on a platform that routes or one that does not."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from loadtests.arms import ARMS

Mode = Literal["sync", "closed", "poisson", "trace"]
INTRINSICS = ("uncertainty", "safety", "hallucination", "relevance", "clarity")
PIPELINES = ("base-adapter", "adapter-base", "base-adapter-base", "multi-adapter")
MAX_USERS = 512
MAX_COUNT = 10_000
MAX_LENGTH = 1_000_000
SPREAD_TOKENS = 64
"""A multiple of the usual block sizes."""
API_KEY_VARIABLE = "LOADTEST_API_KEY"


@dataclass(frozen=True, slots=True)
class Phase:
    """One part of a load test.

    Args:
        name: in the report.
        mode: "sync" plays one pipeline after the other; "closed" lets users converse; "poisson" starts conversations at
            a rate; "trace" replays one.
        arms: that are played; "sync" plays them in turns, the others take one at a time.
        pipelines: for "sync".
        lengths: tokens of a conversation's first prompt.
        count: samples of each pipeline and length, or conversations.
        users: for "closed".
        rate_per_s: for "poisson".
        turns: of a conversation; in "sync", of ``base-adapter``.
        kv_cache_gib: of each replica of a platform that is started for this phase; None leaves the default.
    """

    name: str
    mode: Mode
    arms: tuple[str, ...] = ("lora", "alora", "base")
    pipelines: tuple[str, ...] = PIPELINES
    lengths: tuple[int, ...] = (500, 2000)
    count: int = 3
    users: int = 1
    rate_per_s: float = 0.0
    turns: int = 2
    kv_cache_gib: float | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a value that makes no sense."""
        for arm in self.arms:
            if arm not in ARMS:
                raise ValueError(f"arm is {arm!r}; {', '.join(ARMS)} are accepted")
        for pipeline in self.pipelines:
            if pipeline not in PIPELINES:
                raise ValueError(f"pipeline is {pipeline!r}; {', '.join(PIPELINES)} are accepted")
        for length in self.lengths:
            if not 64 <= length <= MAX_LENGTH:
                raise ValueError(f"length is {length}; 64 to {MAX_LENGTH} tokens are accepted")
        if not 1 <= self.count <= MAX_COUNT:
            raise ValueError(f"count is {self.count}; 1 to {MAX_COUNT} are accepted")
        if not 1 <= self.users <= MAX_USERS:
            raise ValueError(f"users is {self.users}; 1 to {MAX_USERS} are accepted")
        if self.mode == "poisson" and not 0 < self.rate_per_s <= 1000:
            raise ValueError(f"rate_per_s is {self.rate_per_s:g}; above 0 and up to 1,000 are accepted")

    def more_tokens(self, number: int, seed: int) -> int:
        """Return by how many tokens the phase's variant of that number is longer than its nominal length.

        Where a conversation ends within a block decides what an aLoRA call computes again of it. Variants of one
        length would all measure one such place; these are spread evenly over ``SPREAD_TOKENS``, from a random start.
        """
        start = random.Random(f"{seed}/spread/{self.name}").random()  # noqa: S311
        place = (number % self.count + start) / self.count
        return int(place * SPREAD_TOKENS) - SPREAD_TOKENS // 2

    @property
    def routed(self) -> Phase | None:
        """The part of it that needs the platform's router, None if there is none."""
        return self._with(True)

    @property
    def unrouted(self) -> Phase | None:
        """The part of it that needs a router that ignores who holds what."""
        return self._with(False)

    def _with(self, is_routed: bool) -> Phase | None:
        arms = tuple(arm for arm in self.arms if ARMS[arm].is_routed is is_routed)
        return replace(self, arms=arms) if arms else None


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """A whole load test.

    Args:
        phases: in order.
        seed: of texts, orders and arrivals.
        answer_tokens: of base calls.
        evaluation_tokens: of intrinsics' calls.
        think_s: mean of a user's exponential pause between turns.
        intrinsics: names of aLoRA adapters; their plain twins are called ``<name>-lora``.
        evaluators: intrinsics after each answer of a conversation.
        data: MTRAG-UN tasks to take documents from.
        trace: a trace in Mooncake's form, for "trace" phases.
        trace_rows: only so many of it.
        rate_scale: of the trace's arrivals.
        max_prompt_tokens: longer prompts of a trace are cut.
    """

    phases: tuple[Phase, ...]
    seed: int = 0
    answer_tokens: int = 16
    evaluation_tokens: int = 16
    think_s: float = 1.0
    intrinsics: tuple[str, ...] = INTRINSICS
    evaluators: int = 3
    data: Path | None = None
    trace: Path | None = None
    trace_rows: int = 100
    rate_scale: float = 1.0
    max_prompt_tokens: int = 7500


def api_key() -> str | None:
    """Return the key that calls carry, from the environment alone."""
    return os.environ.get(API_KEY_VARIABLE) or None


ROUTED = ("lora", "alora", "base")
ALL_ARMS = ("lora", "alora", "base", "alora-no-router")


def quick_phases() -> tuple[Phase, ...]:
    """Return what ``make loadtest`` plays: all pipelines, one call at a time."""
    return (
        Phase("sync", "sync", ALL_ARMS, pipelines=("base-adapter",), lengths=(500, 2000), count=3),
        Phase("sync-pipelines", "sync", ROUTED, pipelines=PIPELINES[1:], lengths=(500, 1000), count=3),
        Phase("sync-long", "sync", ("lora", "alora"), pipelines=("base-adapter",), lengths=(7500,), count=3),
    )


def full_phases() -> tuple[Phase, ...]:
    """Return what ``make loadtest-full`` plays: more samples and lengths, conversations, rates, a full KV cache."""
    two = ("lora", "alora")
    rates = tuple(
        Phase(f"rate-{rate:g}", "poisson", two, lengths=(1000,), count=20, rate_per_s=rate) for rate in (0.1, 0.2, 0.4)
    )
    overflow = tuple(
        Phase(f"overflow-{users}", "closed", two, lengths=(2000,), count=users, users=users, kv_cache_gib=0.25)
        for users in (2, 4, 8, 16)
    )
    return (
        Phase("sync", "sync", ALL_ARMS, lengths=(500, 1000, 2000), count=10),
        Phase("sync-long", "sync", ROUTED, pipelines=("base-adapter",), lengths=(4000, 7500), count=10),
        Phase("conversations", "closed", ALL_ARMS, lengths=(800,), count=12, users=4, turns=4),
        *rates,
        *overflow,
    )
