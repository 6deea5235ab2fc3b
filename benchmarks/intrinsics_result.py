"""What several intrinsics over one conversation came to: samples, their medians, and figures beside their targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from benchmarks.harness.report import Figure, make_table, milliseconds
from benchmarks.harness.stats import median_of

TOGETHER, SEPARATE, LORA = "aLoRA, one request", "aLoRA, a request each", "LoRA, one request"
FIRST, RETURNING = "first", "returning"
WALL_TARGET, JUDGED_COUNT = 1.5, 3


@dataclass(frozen=True, slots=True)
class IntrinsicsSample:
    """One arm's intrinsics on one conversation.

    Args:
        arm: :data:`TOGETHER`, :data:`SEPARATE` or :data:`LORA`.
        state: :data:`FIRST` or :data:`RETURNING`.
        count: intrinsics.
        wall_s: until the last of their answers was there; requests of their own go one after the other.
        slowest_s: of the slowest request.
        prefilled: tokens that they prefilled in all.
        tails: tokens of their prompts behind the whole blocks of the conversation, in all.
    """

    arm: str
    state: str
    count: int
    wall_s: float
    slowest_s: float
    prefilled: int
    tails: int


def chosen(samples: Sequence[IntrinsicsSample], arm: str, state: str, count: int) -> list[IntrinsicsSample]:
    """Return the samples of one cell."""
    return [sample for sample in samples if (sample.arm, sample.state, sample.count) == (arm, state, count)]


def intrinsics_table(samples: Sequence[IntrinsicsSample]) -> Table:
    """Return the medians of each arm."""
    heads = ("k", "state", "arm", "wall", "prefilled", "k tails")
    shown = make_table("k intrinsics on a warm conversation, medians", heads, left=("state", "arm"))
    cells = dict.fromkeys((sample.count, sample.state) for sample in samples)
    for count, state in sorted(cells):
        for arm in (TOGETHER, SEPARATE, LORA):
            here = chosen(samples, arm, state, count)
            shown.add_row(
                str(count),
                state,
                arm,
                milliseconds(median_of(here, lambda sample: sample.wall_s)),
                f"{median_of(here, lambda sample: sample.prefilled):,.0f}",
                f"{median_of(here, lambda sample: sample.tails):,.0f}",
            )
    return shown


def intrinsics_figures(samples: Sequence[IntrinsicsSample]) -> list[Figure]:
    """Return the figures that have targets, and those of LoRA beside them, for each number of intrinsics."""
    return [
        figure
        for count in sorted({sample.count for sample in samples})
        for state in (FIRST, RETURNING)
        for figure in _figures(samples, state, count)
    ]


def _figures(samples: Sequence[IntrinsicsSample], state: str, count: int) -> list[Figure]:
    together, separate, lora = (chosen(samples, arm, state, count) for arm in (TOGETHER, SEPARATE, LORA))
    wall_s, lora_s = (median_of(here, lambda sample: sample.wall_s) for here in (together, lora))
    slowest_s = median_of(separate, lambda sample: sample.slowest_s)
    name = f"k = {count}, {state}"
    return [
        Figure(
            f"{name}: prefilled by their tails, worst", max(one.prefilled / one.tails for one in together), "x", 1.0
        ),
        Figure(f"{name}: wall by the slowest alone", wall_s / slowest_s, "x", _wall_target(count)),
        Figure(f"{name}: LoRA's wall by aLoRA's", lora_s / wall_s, "x"),
    ]


def _wall_target(count: int) -> float | None:
    return WALL_TARGET if count == JUDGED_COUNT else None
