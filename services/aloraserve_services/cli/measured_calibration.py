"""A calibration of what was timed on this machine: one engine, and the way to it through HTTP."""

from __future__ import annotations

import datetime
import json
import random
import statistics
from collections.abc import Callable
from pathlib import Path

from aloraserve.engine_model.calibration import AdapterTimes, Calibration
from aloraserve.engine_model.fitting import decode_error, fit_decode, fit_prefill, prefill_error
from aloraserve_services.cli.client import StreamingClient
from aloraserve_services.cli.engine_timer import ANSWER_ROOM_TOKENS, COLD_TOKENS, DECODE_BATCHES, EngineFigures
from aloraserve_services.models.hardware import describe_machine
from aloraserve_services.plan import FleetPlan

OVERHEAD_TOKENS = (64, 256, 512, 1024)


def overhead_s(plan: FleetPlan, client: StreamingClient, expected: Callable[[int, int], float], seed: int) -> float:
    """Return how much longer than its engine a call's first token takes through HTTP, the median over some lengths.

    Args:
        plan: of a running platform with one replica.
        client: for its HTTP API.
        expected: the engine's time, from cached and prompt tokens.
        seed: of the prompts.
    """
    chooser = random.Random(f"overhead {seed}")  # noqa: S311
    lengths = [length for length in OVERHEAD_TOKENS if length <= plan.settings.max_model_len - ANSWER_ROOM_TOKENS]
    found: list[float] = []
    for number in range(5 * len(lengths)):
        prompt = [chooser.randrange(100, 40_000) for _ in range(lengths[number % len(lengths)])]
        timed = client.complete(plan.served_name, prompt, 2)
        found.append(timed.ttft_s - expected(timed.cached_tokens, timed.prompt_tokens))
    return max(float(statistics.median(found[len(lengths) :])), 0.0)


def calibration(plan: FleetPlan, name: str, figures: EngineFigures) -> Calibration:
    """Return the calibration that fits the figures; its overhead is 0 yet."""
    prefill = fit_prefill(figures.prefills, figures.step_tokens)
    decode = fit_decode(figures.decodes)
    settings = plan.settings
    return Calibration(
        name=name,
        machine=describe_machine(),
        model=plan.served_name,
        dtype=str(plan.dtype),
        date=datetime.date.today().isoformat(),
        sources=[
            f"aloraserve calibrate: one engine, prefill of {COLD_TOKENS[0]} to {COLD_TOKENS[-1]} tokens cold and after "
            f"cached prefixes, decoding of {DECODE_BATCHES[0]} to {DECODE_BATCHES[-1]} answers; adapters.load_s is one "
            "adapter's share of loading all at the start; overhead_s through HTTP on a platform with one replica"
        ],
        prefill=prefill,
        decode=decode,
        adapters=AdapterTimes(
            load_s=figures.adapter_load_s,
            slots=settings.max_loras,
            resident=settings.max_loaded_adapters,
        ),
        kv_tokens=kv_tokens(plan),
        block_tokens=settings.block_tokens,
        max_num_batched_tokens=figures.step_tokens,
        max_num_seqs=settings.max_num_seqs,
        fit={
            "prefill_median_relative_error": prefill_error(figures.prefills, prefill, figures.step_tokens),
            "decode_median_relative_error": decode_error(figures.decodes, decode),
        },
    )


def kv_tokens(plan: FleetPlan) -> int:
    """Return how many tokens the KV cache of a CPU engine has room for, from the model's shape."""
    shape = json.loads((plan.model_path / "config.json").read_text("utf-8"))
    heads = shape["num_attention_heads"]
    each = shape.get("head_dim") or shape["hidden_size"] // heads
    bytes_a_value = 4 if plan.dtype == "float32" else 2
    a_token = 2 * shape["num_hidden_layers"] * shape.get("num_key_value_heads", heads) * each * bytes_a_value
    blocks = int(plan.settings.kv_cache_gib * (1 << 30)) // (a_token * plan.settings.block_tokens)
    return int(blocks * plan.settings.block_tokens)


def write_calibration(path: Path, found: Calibration) -> None:
    """Write a calibration as the simulator reads it."""
    path.write_text(found.model_dump_json(indent=2) + "\n", encoding="utf-8")
