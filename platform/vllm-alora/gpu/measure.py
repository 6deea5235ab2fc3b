"""Measure on a GPU: ``measure.py ttft|throughput --json FILE``. A part of ``check.py``."""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path

# Puts the benchmarks on the path.
from large import LENGTHS, start  # isort: skip
from arm import without_plugin
from engine import Engine
from figures import Results, Row, mean_ratio, median_of
from subject import Subject
from ttft import Samples, measure_round, measure_ttft

TURN_TOKENS = 16
ROUNDS = 5
PAIRS = 10
PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 64, 512, 64


def time_to_first_token(subject: Subject, engine: Engine, generator: random.Random) -> Results:
    """Measure LoRA and aLoRA at each length; a first round of each compiles kernels and is left out."""
    results = Results()
    for length in LENGTHS:
        print(f"  warming up, {length:,} tokens", flush=True)
        measure_round(engine, subject, length, TURN_TOKENS, generator, Samples(), swap=False)
    measure_ttft(engine, subject, dict.fromkeys(LENGTHS, ROUNDS), LENGTHS, TURN_TOKENS, generator, results)
    return results


def throughput(subject: Subject, engine: Engine, generator: random.Random) -> Results:
    """Measure base batches on an engine with both adapters loaded, with the plugin and without, in pairs."""
    results = Results()
    invocation = list(subject.alora.invocation)
    for adapter in (subject.alora, subject.lora):
        engine.call(subject.tokens(64, generator) + invocation, adapter, 4)
    tokens = PROMPTS * (PROMPT_TOKENS + NEW_TOKENS)
    samples: dict[bool, list[float]] = {True: [], False: []}
    for number in range(-1, PAIRS):
        batch = [subject.tokens(PROMPT_TOKENS, generator) for _ in range(PROMPTS)]
        others = [subject.tokens(PROMPT_TOKENS, generator) for _ in range(PROMPTS)]
        for is_with in (True, False) if number % 2 else (False, True):
            rate = tokens / _seconds(engine, batch if is_with else others, is_with)
            if number >= 0:
                samples[is_with].append(rate)
        if number >= 0:
            print(f"  pair {number + 1}: with {samples[True][-1]:,.0f}, without {samples[False][-1]:,.0f}", flush=True)
    results.add(
        Row(
            "base-only throughput, LoRA on, with : without the plugin",
            mean_ratio(samples[True], samples[False]),
            note=f"{median_of(samples[True]).value:,.0f} : {median_of(samples[False]).value:,.0f} tokens/s, "
            f"{PROMPTS} prompts of {PROMPT_TOKENS} + {NEW_TOKENS} tokens, mean and 95 % interval of {PAIRS} pairs",
        )
    )
    return results


def _seconds(engine: Engine, batch: list[list[int]], is_with: bool) -> float:
    if is_with:
        return engine.batch_s(batch, NEW_TOKENS)
    with without_plugin():
        return engine.batch_s(batch, NEW_TOKENS)


PARTS = {"ttft": time_to_first_token, "throughput": throughput}


def main() -> None:
    """Start the engine, measure one part, write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--json", type=Path, required=True, help="where the results go")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="alora-gpu-") as scratch:
        subject, engine = start(Path(scratch))
        results = PARTS[options.part](subject, engine, random.Random(0))  # noqa: S311
    options.json.write_text(json.dumps(results.as_json(), indent=2) + "\n")


if __name__ == "__main__":
    main()
