"""The contract of a routing policy: a pure ordering of the live replicas for one call.

A policy never does I/O, never raises for odd but valid input, and takes bounded time: at most linear in the
number of candidates (times its logarithm). It must order every candidate exactly once. Ties go to the least
loaded, then to the lower replica id, so that two gateways that see the same state choose the same replica.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from aloraserve.blocks import BlockKey
from aloraserve.directory.base import Candidate


@dataclass(frozen=True, slots=True)
class Call:
    """What a policy may know of a call.

    Args:
        prompt_tokens: length of the prompt.
        block_tokens: tokens a block.
        keys: the prompt's block keys.
        adapter: name of the adapter, None for the base model.
    """

    prompt_tokens: int
    block_tokens: int
    keys: Sequence[BlockKey]
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """One candidate's expected TTFT and what it is made of (seconds and tokens)."""

    replica: str
    label: str
    expected_ttft_s: float
    overlap_tokens: int
    queued_tokens: int


@dataclass(frozen=True, slots=True)
class Decision:
    """An ordering of replicas, best first, and why.

    ``policy`` names the policy that decided, or "fallback" with its cause in ``reason``.
    """

    policy: str
    reason: str
    estimates: tuple[Estimate, ...]

    @property
    def rank(self) -> list[str]:
        """Replica ids, best first."""
        return [estimate.replica for estimate in self.estimates]


class Policy(Protocol):
    """Orders candidates for a call; see the module's docstring."""

    name: str

    def decide(self, call: Call, candidates: Sequence[Candidate]) -> Decision:
        """Return the decision for ``call``; with no candidates, one with no estimates."""
        ...
