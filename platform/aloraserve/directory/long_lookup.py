"""How a prompt that is too long for one question is looked up: its runs first, then the runs in which holders stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from aloraserve.blocks import BlockKey
from aloraserve.directory.base import RUN_BLOCKS

ONE_TRIP_BLOCKS = 2048
"""Longer prompts are looked up in two round trips."""
MAX_WINDOWS = 16
"""Runs that are looked into. Holders that stop in others, which have less, are said to stop at the run's start."""


class Ends(NamedTuple):
    """Leading places that a holder has: in the fast tier, and in any."""

    fast: int
    held: int


_NONE = Ends(0, 0)


def run_marks(keys: Sequence[BlockKey]) -> list[BlockKey]:
    """Return the first key and the last one of each run: a thirty-second of them, and the runs' anchors."""
    return [keys[0], *keys[RUN_BLOCKS - 1 :: RUN_BLOCKS], *([keys[-1]] if len(keys) % RUN_BLOCKS else ())]


def windows(ends_by_run: Mapping[bytes, Ends], count: int) -> dict[int, slice]:
    """Return the runs to look into, by number, with the keys that each has.

    Args:
        ends_by_run: how many leading runs each holder has.
        count: the prompt's blocks.
    """
    runs = {run for ends in ends_by_run.values() for run in ends if run * RUN_BLOCKS < count}
    return {
        run: slice(run * RUN_BLOCKS, min((run + 1) * RUN_BLOCKS, count))
        for run in sorted(runs, reverse=True)[:MAX_WINDOWS]
    }


def joined(
    ends_by_run: Mapping[bytes, Ends], inside: Mapping[int, Mapping[bytes, Ends]], count: int
) -> dict[bytes, Ends]:
    """Return how many leading blocks each holder has.

    Args:
        ends_by_run: how many leading runs each holder has.
        inside: for each run that was looked into, how many of its leading blocks each holder has.
        count: the prompt's blocks.
    """

    def blocks(holder: bytes, run: int, kind: int) -> int:
        part = inside.get(run, {}).get(holder, _NONE)[kind]
        return min(run * RUN_BLOCKS + part, count)

    return {
        holder: Ends(*(blocks(holder, run, kind) for kind, run in enumerate(ends)))
        for holder, ends in ends_by_run.items()
    }
