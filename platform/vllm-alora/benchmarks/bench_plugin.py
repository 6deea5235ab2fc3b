"""Costs and savings of aLoRA in one vLLM process: the figures that the plugin promises, each with its target.

make bench-plugin                                    # everything, some 30 minutes on two cores
make bench-plugin ARGS="--quick"                     # 512 and 2,048 tokens, 3 rounds
make bench-plugin ARGS="--json out.json --plot docs/images/plugin-ttft.svg"
python bench_plugin.py --model PATH --adapters DIR   # any Llama-like model; without them: random weights
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from curve import PlotError, check_plot, draw_curve
from decode import measure_decode, profile_decode, profile_table
from engine import Engine, set_environment
from figures import Results, table
from machine import describe_machine
from mask import measure_activation, measure_mask
from plugin import PluginError
from reuse import measure_reuse
from subject import RANK, TARGETS, Subject, SubjectError, find_subject
from throughput import Batch, measure_throughput
from ttft import measure_prefill, measure_ttft

TARGET_LENGTHS = (512, 2048, 8000)
CURVE_LENGTHS = (256, 512, 1024, 2048, 4096, 8000)
QUICK_LENGTHS = (512, 2048)
QUICK_ROUNDS = 3
REUSE_LENGTHS = (31, 32, 33, 500, 512, 1000, 1024, 1025, 2047, 2048, 3001)
SECTIONS = ("throughput", "mask", "reuse", "prefill", "decode", "ttft", "profile")


def main() -> None:
    """Read the arguments, measure, print, write."""
    options = _arguments()
    start = time.monotonic()
    try:
        if options.plot is not None:
            check_plot(options.plot)
        with tempfile.TemporaryDirectory(prefix="vllm-alora-bench-") as scratch:
            set_environment()
            subject = find_subject(options.model, options.adapters, options.dtype, Path(scratch), options.seed)
            machine = describe_machine()
            print(_heading(options, subject, machine), flush=True)
            results = _measure(options, subject)
    except (SubjectError, PlotError, PluginError) as exc:
        sys.exit(f"error: {exc}")
    _report(results, time.monotonic() - start)
    if options.json is not None:
        settings = {name: str(value) for name, value in vars(options).items()}
        content = {"machine": machine, "settings": settings, **results.as_json()}
        options.json.write_text(json.dumps(content, indent=2) + "\n")
    if options.plot is not None and results.curve:
        draw_curve(results, options.plot, _title(options, subject, machine))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--model", type=Path, help="folder of a model (default: random weights in SmolLM2-135M's shape)"
    )
    parser.add_argument("--adapters", type=Path, help="folder of an aLoRA and a plain LoRA (default: random weights)")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="default: bfloat16")
    parser.add_argument("--rounds", type=int, help="of everything timed (default: 5; 3 with --quick)")
    parser.add_argument("--pairs", type=int, help="of what gets an interval (default: 4 x rounds)")
    parser.add_argument("--turn", type=int, default=16, help="tokens between prefix and invocation (default: 16)")
    parser.add_argument("--seed", type=int, default=0, help="of all random tokens and weights (default: 0)")
    parser.add_argument("--quick", action="store_true", help="512 and 2,048 tokens only, 3 rounds, no curve beyond")
    parser.add_argument("--all-linears", action="store_true", help="leave lora_target_modules unset, as vLLM does")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="parts to run (default: all)")
    parser.add_argument("--json", type=Path, help="write results and samples' spreads here")
    parser.add_argument("--plot", type=Path, help="draw the TTFT curve here (.svg or .png)")
    options = parser.parse_args()
    options.rounds = options.rounds or (QUICK_ROUNDS if options.quick else 5)
    options.pairs = options.pairs or 4 * options.rounds
    if options.rounds < 2 or options.pairs < 4:
        parser.error("--rounds must be 2 or more and --pairs 4 or more")
    return options


def _heading(options: argparse.Namespace, subject: Subject, machine: dict[str, Any]) -> str:
    is_random = subject.has_random_adapters
    weights = f"random, r={RANK} on {', '.join(TARGETS)}" if is_random else "as given"
    model = "random weights in SmolLM2-135M's shape" if subject.has_random_model else str(subject.model)
    return "\n".join(
        [
            f"machine: {', '.join(f'{name} {value}' for name, value in machine.items())}",
            f"model: {model}, {options.dtype}; adapters {subject.alora.name}, {subject.lora.name} ({weights}), "
            "as many slots as adapters; one process, one thread",
            f"random: every prompt token{' and the adapters' if is_random else ''} (seed {options.seed}); answers "
            "are greedy, of fixed length; medians with least and greatest unless a line says otherwise",
        ]
    )


def _measure(options: argparse.Namespace, subject: Subject) -> Results:
    generator = random.Random(options.seed)  # noqa: S311
    results = Results()
    lengths = QUICK_LENGTHS if options.quick else CURVE_LENGTHS
    longest = max(lengths)
    _say("starting the engine")
    adapters = (subject.alora, subject.lora)
    engine = Engine(subject.model, options.dtype, adapters, all_linears=options.all_linears)
    prepared = "every linear (vLLM's default)" if options.all_linears else "the linears that the adapters change"
    print(f"  {engine.settings}; LoRA on {prepared}", flush=True)
    _warm_up(engine, subject, generator)
    if "throughput" in options.only:
        _say("base-only throughput with and without the plugin, LoRA on and both adapters loaded")
        measure_throughput(subject, engine, Batch(), options.pairs, generator, results)
    if "mask" in options.only:
        _say("the plugin's work per step and per request")
        measure_mask(results)
        measure_activation(subject, engine, generator, results)
    if "reuse" in options.only:
        _say("cached tokens")
        reuse_lengths = [*REUSE_LENGTHS, *([] if options.quick else [8000])]
        measure_reuse(engine, subject, reuse_lengths, generator, results)
    if "prefill" in options.only:
        _say("LoRA prefill against base prefill")
        measure_prefill(engine, subject, options.rounds, generator, results)
    if "decode" in options.only:
        _say("decode, aLoRA against LoRA")
        measure_decode(engine, subject, options.pairs, generator, results)
    if "ttft" in options.only:
        _say("time to first token")
        targets = [length for length in TARGET_LENGTHS if length in lengths]
        rounds = {length: options.rounds if length in targets else (options.rounds + 1) // 2 for length in lengths}
        measure_ttft(engine, subject, rounds, targets, options.turn, generator, results)
    if "profile" in options.only:
        _say("profile of decode")
        profile_decode(engine, subject, longest, generator, results)
    return results


def _warm_up(engine: Engine, subject: Subject, generator: random.Random) -> None:
    """Load the adapters and touch every path once."""
    for adapter in (None, subject.alora, subject.lora):
        engine.call(subject.tokens(256, generator) + list(subject.alora.invocation), adapter, 4)


def _say(what: str) -> None:
    print(f"\n{what}", flush=True)


def _report(results: Results, seconds: float) -> None:
    print(f"\n{table(results.rows)}")
    if results.profile:
        print(f"\ndecode by operator, top {len(results.profile)}\n{profile_table(results.profile)}")
    for finding in results.findings:
        print(f"\n{finding}")
    judged = [row for row in results.rows if row.target is not None]
    missed = [row.figure for row in judged if row.verdict == "missed"]
    print(f"\n{len(judged) - len(missed)} of {len(judged)} targets met, {seconds / 60:.0f} minutes")
    if missed:
        print("missed: " + "; ".join(missed))


def _title(options: argparse.Namespace, subject: Subject, machine: dict[str, Any]) -> str:
    name = "random weights in SmolLM2-135M's shape" if subject.has_random_model else subject.model.name
    kind = "bf16" if options.dtype == "bfloat16" else "fp32"
    uncached = options.turn + len(subject.alora.invocation)
    return (
        f"{name}, {kind}, one thread of {machine['cpu']}; LoRA r={RANK} on q, k, v;\n"
        f"aLoRA computes {uncached} tokens; medians, bars from least to greatest"
    )


if __name__ == "__main__":
    main()
