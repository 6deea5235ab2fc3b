"""Base-only throughput of an engine with LoRA on and adapters loaded, with the plugin and without, in turn."""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass

from engine import Engine
from figures import Results, Row, Target, mean_ratio, median_of
from plugin import without_plugin
from subject import Subject


@dataclass(frozen=True)
class Batch:
    """Size of a batch: how many prompts, their tokens, and the tokens generated of each."""

    prompts: int = 8
    prompt_tokens: int = 192
    new_tokens: int = 16

    @property
    def tokens(self) -> int:
        """How many tokens it computes."""
        return self.prompts * (self.prompt_tokens + self.new_tokens)


def measure_throughput(
    subject: Subject, engine: Engine, size: Batch, pairs: int, generator: random.Random, results: Results
) -> None:
    """Time base batches in pairs and add the row. Both sides have the same engine, and prompts that it has not seen.

    Args:
        subject: what is measured.
        engine: whose adapters are loaded, as they are once each of them was called.
        size: of each batch.
        pairs: how many; one more comes first and is left out.
        generator: of the prompts.
        results: where the row goes.

    Raises:
        PluginError: the plugin cannot be taken out.
    """
    samples: dict[bool, list[float]] = {True: [], False: []}
    for number in range(-1, pairs):
        for is_with in (True, False) if number % 2 else (False, True):
            batch = [subject.tokens(size.prompt_tokens, generator) for _ in range(size.prompts)]
            with contextlib.nullcontext() if is_with else without_plugin():
                rate = size.tokens / engine.batch_s(batch, size.new_tokens)
            if number >= 0:
                samples[is_with].append(rate)
        if number >= 0:
            print(f"  pair {number + 1}: with {samples[True][-1]:,.1f}, without {samples[False][-1]:,.1f}", flush=True)
    results.add(
        Row(
            "base-only throughput, LoRA on, adapters loaded, with : without the plugin",
            mean_ratio(samples[True], samples[False]),
            target=Target(interval_within=(0.97, 1.03)),
            note=f"{median_of(samples[True]).value:,.0f} : {median_of(samples[False]).value:,.0f} tokens/s, "
            f"{size.prompts} prompts of {size.prompt_tokens} + {size.new_tokens} tokens, "
            f"mean and 95 % interval of {pairs} pairs",
        )
    )
