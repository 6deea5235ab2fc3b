"""Base-only throughput with the plugin and without: two live engines, timed in turn on the same batches."""

from __future__ import annotations

import random
import time
from pathlib import Path

from arm import Arm, ArmError, two_arms
from figures import Results, Row, Target, mean_ratio, median_of
from subject import Subject

PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 8, 192, 16
IDLE_S = 1.0
IDLE_SHARE = 0.05
"""An arm that uses more of a core than this while it waits would disturb the other one."""


def measure_throughput(subject: Subject, dtype: str, pairs: int, generator: random.Random, results: Results) -> None:
    """Time base batches in both arms, in turn, and add the row.

    Raises:
        ArmError: an arm cannot be started, or one that waits keeps a core busy.
    """
    tokens = PROMPTS * (PROMPT_TOKENS + NEW_TOKENS)
    on: list[float] = []
    off: list[float] = []
    with two_arms(Path(subject.model), dtype) as arms:
        for arm in arms:
            arm.batch_s(_batch(subject, generator), NEW_TOKENS)
        _check_idle(arms)
        for number in range(pairs):
            batch = _batch(subject, generator)
            order = ((arms[0], on), (arms[1], off))
            for arm, samples in order[::-1] if number % 2 else order:
                samples.append(tokens / arm.batch_s(batch, NEW_TOKENS))
            print(f"  pair {number + 1}: with {on[-1]:.1f}, without {off[-1]:.1f} tokens/s", flush=True)
    results.add(
        Row(
            "base-only throughput, with : without the plugin",
            mean_ratio(on, off),
            target=Target(interval_within=(0.97, 1.03)),
            note=f"{median_of(on).value:,.0f} : {median_of(off).value:,.0f} tokens/s, "
            f"mean and 95 % interval of {pairs} pairs",
        )
    )


def _batch(subject: Subject, generator: random.Random) -> list[list[int]]:
    return [subject.tokens(PROMPT_TOKENS, generator) for _ in range(PROMPTS)]


def _check_idle(arms: tuple[Arm, Arm]) -> None:
    before = [arm.cpu_s() for arm in arms]
    time.sleep(IDLE_S)
    used = [(arm.cpu_s() - start) / IDLE_S for arm, start in zip(arms, before, strict=True)]
    if max(used) > IDLE_SHARE:
        raise ArmError(f"an idle engine uses {max(used):.0%} of a core; the arms would disturb each other")
    print(f"  idle arms use {max(used):.1%} of a core", flush=True)
