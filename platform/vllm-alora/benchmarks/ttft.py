"""Time to first token, and to the last one, by prompt length: base, plain LoRA and aLoRA."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine import Call, Engine
from figures import Results, Row, Target, mean_ratio, median_of, ratios
from subject import Subject

WARM_REPEATS = 3
"""Warm calls of each kind a round: they are cheap, and their ratio is what the first target is about."""
E2E_TOKENS = 16
PREFILL_TOKENS = 2048

BASE_COLD = "base, cold"
LORA_FIRST = "LoRA, first call"
LORA_AGAIN = "LoRA on its own warm prefix"
ALORA_WARM = "aLoRA on a warm base prefix"
BASE_WARM = "base on a warm base prefix"


@dataclass
class Samples:
    """The calls at one length, in pairs where they are compared."""

    calls: dict[str, list[Call]] = field(default_factory=lambda: defaultdict(list))

    def ttft_ms(self, kind: str) -> list[float]:
        """Return the times to the first token."""
        return [call.ttft_s * 1e3 for call in self.calls[kind]]

    def total_ms(self, kind: str) -> list[float]:
        """Return the times to the last token."""
        return [call.total_s * 1e3 for call in self.calls[kind]]


def measure_round(
    engine: Engine, subject: Subject, length: int, turn: int, generator: random.Random, samples: Samples, swap: bool
) -> None:
    """Measure every kind of call once (the warm ones a few times) on one new random prefix.

    Args:
        engine: with LoRA on.
        subject: the adapters.
        length: of the prefix, a multiple of the block.
        turn: tokens between the prefix and the invocation.
        generator: of the tokens.
        samples: where the calls go.
        swap: run each pair in the other order.
    """
    prefix, invocation = subject.tokens(length, generator), list(subject.alora.invocation)

    def turn_tokens() -> list[int]:
        return subject.tokens(turn, generator)

    def cold_base() -> None:
        samples.calls[BASE_COLD].append(engine.call(prefix))

    def cold_lora() -> None:
        prompt = prefix + turn_tokens() + invocation
        samples.calls[LORA_FIRST].append(engine.call(prompt, subject.lora, E2E_TOKENS))

    def warm_base() -> None:
        prompt = prefix + turn_tokens() + subject.tokens(len(invocation), generator)
        samples.calls[BASE_WARM].append(engine.call(prompt, None, E2E_TOKENS))

    def warm_alora() -> None:
        prompt = prefix + turn_tokens() + invocation
        samples.calls[ALORA_WARM].append(engine.call(prompt, subject.alora, E2E_TOKENS))

    def warm_lora() -> None:
        prompt = prefix + turn_tokens() + invocation
        samples.calls[LORA_AGAIN].append(engine.call(prompt, subject.lora, E2E_TOKENS))

    cold, warm = (cold_base, cold_lora), (warm_base, warm_alora, warm_lora)
    for run in cold[::-1] if swap else cold:
        run()
    for repeat in range(WARM_REPEATS):
        for run in warm[::-1] if swap != bool(repeat % 2) else warm:
            run()
    for kind in (BASE_WARM, ALORA_WARM, LORA_AGAIN):
        for call in samples.calls[kind][-WARM_REPEATS:]:
            if call.cached_tokens != length:
                raise RuntimeError(f"{kind} at {length} took {call.cached_tokens} cached tokens, expected {length}")


def measure_ttft(
    engine: Engine,
    subject: Subject,
    lengths: dict[int, int],
    targets: Sequence[int],
    turn: int,
    generator: random.Random,
    results: Results,
) -> None:
    """Measure all lengths, interleaved, and add the rows and the curve.

    Args:
        engine: with LoRA on.
        subject: the adapters.
        lengths: rounds by prefix length.
        targets: the lengths that get rows; the others are only in the curve.
        turn: tokens between the prefix and the invocation.
        generator: of the tokens.
        results: where rows and curve go.
    """
    samples = {length: Samples() for length in lengths}
    for number in range(max(lengths.values())):
        for length, rounds in lengths.items():
            if number < rounds:
                measure_round(engine, subject, length, turn, generator, samples[length], bool(number % 2))
                last = {kind: f"{calls[-1].ttft_s * 1e3:.0f}" for kind, calls in samples[length].calls.items()}
                print(f"  round {number + 1}, {length:,} tokens, TTFT in ms: {last}", flush=True)
    for kind in (BASE_COLD, LORA_FIRST, BASE_WARM, ALORA_WARM, LORA_AGAIN):
        results.curve[kind] = {length: median_of(samples[length].ttft_ms(kind)) for length in lengths}
    for length in targets:
        _add_rows(samples[length], length, turn + len(subject.alora.invocation), results)


def _add_rows(samples: Samples, length: int, uncached: int, results: Results) -> None:
    alora, base = samples.ttft_ms(ALORA_WARM), samples.ttft_ms(BASE_WARM)
    lora = samples.ttft_ms(LORA_FIRST)
    middle = median_of(alora).value
    results.add(
        Row(
            f"TTFT aLoRA : base on a warm prefix of {length:,}",
            median_of(ratios(alora, base)),
            target=Target(at_most=1.15),
            note=f"{middle:.1f} : {median_of(base).value:.1f} ms, {uncached} uncached tokens each",
        )
    )
    results.add(
        Row(
            f"TTFT LoRA (first call) : aLoRA at {length:,}",
            median_of([sample / middle for sample in lora]),
            note=f"{median_of(lora).value:,.0f} : {middle:.1f} ms",
        )
    )
    again = samples.ttft_ms(LORA_AGAIN)
    results.add(
        Row(
            f"TTFT LoRA (on its own warm prefix) : aLoRA at {length:,}",
            median_of(ratios(again, alora)),
            note=f"{median_of(again).value:.1f} : {middle:.1f} ms",
        )
    )
    lora_total, alora_total = samples.total_ms(LORA_FIRST), samples.total_ms(ALORA_WARM)
    middle = median_of(alora_total).value
    results.add(
        Row(
            f"E2E, {E2E_TOKENS} tokens, LoRA (first call) : aLoRA at {length:,}",
            median_of([sample / middle for sample in lora_total]),
            target=Target(at_least=17) if length == 8000 else None,
            note=f"{median_of(lora_total).value:,.0f} : {middle:,.0f} ms",
        )
    )


def measure_prefill(engine: Engine, subject: Subject, rounds: int, generator: random.Random, results: Results) -> None:
    """Compare cold prefills of the same tokens, LoRA and base, and add the row."""
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for number in range(rounds):
        prompt = subject.tokens(PREFILL_TOKENS, generator)
        for plain in (True, False) if number % 2 else (False, True):
            call = engine.call(prompt, subject.lora if plain else None)
            if call.cached_tokens:
                raise RuntimeError(f"a cold prefill took {call.cached_tokens} cached tokens")
            seconds[plain].append(call.ttft_s)
        print(f"  round {number + 1}: LoRA {seconds[True][-1]:.2f} s, base {seconds[False][-1]:.2f} s", flush=True)
    mean = mean_ratio(seconds[True], seconds[False])
    results.add(
        Row(
            f"LoRA prefill : base prefill at {PREFILL_TOKENS:,}",
            median_of(ratios(seconds[True], seconds[False])),
            target=Target(at_most=1.15),
            note=f"{median_of(seconds[True]).value * 1e3:,.0f} : {median_of(seconds[False]).value * 1e3:,.0f} ms, "
            f"mean {mean.value:.3f} ({mean.low:.3f}-{mean.high:.3f})",
        )
    )
