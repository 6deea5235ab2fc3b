"""Decode: aLoRA against plain LoRA per token, and what a decode step consists of."""

from __future__ import annotations

import random
from typing import Any

from engine import Engine
from figures import Results, Row, Target, mean_ratio, median_of
from subject import Subject

CONTEXT_TOKENS, TURN_TOKENS, NEW_TOKENS = 512, 16, 33
PROFILE_TOKENS = 17
TOP = 10
PRODUCTS = "matrix products"
KINDS = {
    "attention over the KV cache": ("attention",),
    PRODUCTS: ("mm", "linear", "matmul"),
    "copies and casts": ("copy", "_to", "cat", "clone", "contiguous", "index", "fill", "zero"),
    "norms, activations, rotary": ("norm", "silu", "mul", "rotary", "rms"),
}


def measure_decode(engine: Engine, subject: Subject, pairs: int, generator: random.Random, results: Results) -> None:
    """Time the same continuations with the adapter as aLoRA and as plain LoRA, in turn, and add the row."""
    prefix, invocation = subject.tokens(CONTEXT_TOKENS, generator), list(subject.alora.invocation)
    engine.call(prefix)
    engine.call(prefix + invocation, subject.lora)
    activated: list[float] = []
    plain: list[float] = []
    for number in range(pairs):
        prompt = prefix + subject.tokens(TURN_TOKENS, generator) + invocation
        order = ((subject.alora, activated), (subject.lora, plain))
        for adapter, samples in order[::-1] if number % 2 else order:
            samples.append(engine.call(prompt, adapter, NEW_TOKENS).decode_s * 1e3)
        print(f"  pair {number + 1}: aLoRA {activated[-1]:.2f}, LoRA {plain[-1]:.2f} ms per token", flush=True)
    results.add(
        Row(
            "decode time per token, aLoRA : LoRA",
            mean_ratio(activated, plain),
            target=Target(interval_within=(0.97, 1.03)),
            note=f"{median_of(activated).value:.2f} : {median_of(plain).value:.2f} ms, context of {CONTEXT_TOKENS}, "
            f"mean and 95 % interval of {pairs} pairs",
        )
    )


def profile_decode(engine: Engine, subject: Subject, length: int, generator: random.Random, results: Results) -> None:
    """Profile the decode steps of one aLoRA call behind ``length`` warm tokens; add the top operators and a finding."""
    from torch.profiler import ProfilerActivity, profile

    prefix, invocation = subject.tokens(length, generator), list(subject.alora.invocation)
    engine.call(prefix)
    steps = PROFILE_TOKENS - 1

    def prompt() -> list[int]:
        return prefix + subject.tokens(TURN_TOKENS, generator) + invocation

    plain_ms = engine.call(prompt(), subject.alora, PROFILE_TOKENS).decode_s * 1e3
    profiler = profile(activities=[ProfilerActivity.CPU])
    engine.decode_under(profiler, prompt(), subject.alora, PROFILE_TOKENS)
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    spent = [(event.key, event.self_cpu_time_total / 1e3 / steps, event.count / steps) for event in events]
    operators_ms = sum(ms for _, ms, _ in spent)
    results.profile = [
        {"operator": name, "ms_per_step": ms, "calls_per_step": calls, "share_of_operators": ms / operators_ms}
        for name, ms, calls in spent[:TOP]
    ]
    weights_mb = sum(path.stat().st_size for path in subject.model.glob("*.safetensors")) / 1e6
    results.findings.append(_finding(spent, plain_ms, length, weights_mb))


def _finding(spent: list[tuple[str, float, float]], step_ms: float, length: int, weights_mb: float) -> str:
    """Say what a step consists of and what bounds it.

    Args:
        spent: operator, ms per step, calls per step.
        step_ms: a step's whole time, measured without the profiler.
        length: of the context.
        weights_mb: of the model's weights, which every step reads.
    """
    shares: dict[str, float] = {}
    for name, ms, _ in spent:
        kind = next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), "other operators")
        shares[kind] = shares.get(kind, 0.0) + ms
    parts = sorted(shares.items(), key=lambda item: -item[1])
    text = ", ".join(f"{kind} {ms:.1f} ms ({ms / step_ms:.0%})" for kind, ms in parts)
    rest = max(step_ms - sum(shares.values()), 0.0)
    products = shares.get(PRODUCTS, 0.0)
    reading = f", {weights_mb:,.0f} MB of weights at {weights_mb / products:.0f} GB/s" if products else ""
    bound = parts[0][0]
    return (
        f"Decode at {length:,} tokens takes {step_ms:.1f} ms per token: {text}, and about {rest:.1f} ms "
        f"({rest / step_ms:.0%}) of Python between the operators. "
        f"It is bound by {bound}{reading if bound == PRODUCTS else ''}."
    )


def profile_table(profile: list[dict[str, Any]]) -> str:
    """Return the top operators as a plain table."""
    lines = [f"{'operator':44} {'ms per step':>11} {'calls per step':>15} {'share':>7}"]
    lines += [
        f"{entry['operator'][:44]:44} {entry['ms_per_step']:11.2f} {entry['calls_per_step']:15.1f} "
        f"{entry['share_of_operators']:7.1%}"
        for entry in profile
    ]
    return "\n".join(lines)
