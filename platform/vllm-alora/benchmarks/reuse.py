"""How much of a warm base prefix an aLoRA call takes from the cache."""

from __future__ import annotations

import random
from collections.abc import Sequence

from engine import BLOCK_TOKENS, Engine
from figures import Results, Row, Target, median_of
from subject import Subject


def measure_reuse(
    engine: Engine, subject: Subject, lengths: Sequence[int], generator: random.Random, results: Results
) -> None:
    """Prefill a base prompt of each length, then invoke the aLoRA right behind it; add the row.

    The expected number is every whole block before the activation point, ``length // BLOCK_TOKENS`` of them: one fewer
    or one more is a miss.
    """
    shares, wrong = [], []
    for length in lengths:
        prefix = subject.tokens(length, generator)
        engine.call(prefix)
        cached = engine.call(prefix + list(subject.alora.invocation), subject.alora).cached_tokens
        expected = length // BLOCK_TOKENS * BLOCK_TOKENS
        if cached != expected:
            wrong.append(f"{length}: {cached} instead of {expected}")
        # A block too many is as wrong as one too few.
        shares.append(100.0 * min(cached, expected) / max(cached, expected, 1) if expected or cached else 100.0)
    results.add(
        Row(
            "cached tokens : all in whole blocks before activation",
            median_of(shares) if not wrong else median_of([min(shares)]),
            "%",
            Target(at_least=100),
            "; ".join(wrong) or f"exact at {', '.join(f'{length:,}' for length in lengths)} tokens",
        )
    )
