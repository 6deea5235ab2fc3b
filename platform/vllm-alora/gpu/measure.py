"""Measure on a GPU: ``measure.py ttft|throughput --json FILE``. A part of ``check.py``."""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path

# Puts the benchmarks on the path.
from large import LENGTHS, start  # isort: skip
from engine import Engine
from figures import Results
from subject import Subject
from throughput import Batch, measure_throughput
from ttft import Samples, measure_round, measure_ttft

TURN_TOKENS = 16
ROUNDS = 5
PAIRS = 10
BATCH = Batch(prompts=64, prompt_tokens=512, new_tokens=64)


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
    for adapter in (subject.alora, subject.lora):
        engine.call(subject.tokens(64, generator) + list(subject.alora.invocation), adapter, 4)
    measure_throughput(subject, engine, BATCH, PAIRS, generator, results)
    return results


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
