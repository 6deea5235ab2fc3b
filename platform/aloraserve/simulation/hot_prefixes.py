"""Which prefixes are hot: those of which several conversations lately had the blocks, and those of live ones."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from aloraserve.blocks import BlockKey
from aloraserve.routing.prefill_model import PrefillModel
from aloraserve.simulation.base import SimulatedCall

MAX_CALLS = 512
RECENT_S = 120.0
MIN_SESSIONS = 2
"""Conversations that make a prefix the fleet's own rather than one conversation's."""


@dataclass(frozen=True, slots=True)
class RecentPrompt:
    time_s: float
    session: str
    keys: Sequence[BlockKey]


class HotPrefixes:
    """The prompts that a replica has lately had."""

    def __init__(self) -> None:
        self._used: deque[RecentPrompt] = deque(maxlen=MAX_CALLS)

    def note(self, time_s: float, call: SimulatedCall) -> None:
        """Remember a call's prompt."""
        self._used.append(RecentPrompt(time_s, call.session, call.keys))

    def recent(self, time_s: float) -> list[RecentPrompt]:
        """Return what is not long ago, the latest prompt of each conversation."""
        found = {used.session: used for used in self._used if time_s - used.time_s <= RECENT_S}
        return list(found.values())


def shared_chains(
    prompts: Iterable[RecentPrompt], prefill: PrefillModel, *, block_tokens: int, budget_s: float, max_blocks: int
) -> tuple[list[Sequence[BlockKey]], float]:
    """Return the prefixes that most conversations share and that fit into the budget, and how long they take.

    Args:
        prompts: of the fleet.
        prefill: how long computing them takes.
        block_tokens: tokens per block.
        budget_s: for all of them.
        max_blocks: of all of them.
    """
    kept = list(prompts)
    sessions = Counter(key for used in kept for key in set(used.keys))
    prefixes = {chain[-1]: chain for used in kept if (chain := used.keys[: _shared(used.keys, sessions)])}
    chosen: list[Sequence[BlockKey]] = []
    taken: set[BlockKey] = set()
    spent_s = 0.0
    for chain in sorted(prefixes.values(), key=lambda chain: -sessions[chain[-1]]):
        known = sum(key in taken for key in chain)
        seconds = prefill.seconds(known * block_tokens, len(chain) * block_tokens)
        if spent_s + seconds <= budget_s and len(taken) + len(chain) - known <= max_blocks:
            spent_s += seconds
            taken.update(chain)
            chosen.append(chain)
    return chosen, spent_s


def _shared(keys: Sequence[BlockKey], sessions: Counter[BlockKey]) -> int:
    """Return how many leading blocks several conversations have."""
    low, high = 0, len(keys)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if sessions[keys[middle - 1]] >= MIN_SESSIONS else (low, middle - 1)
    return low
