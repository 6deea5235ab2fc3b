"""Time that the plugin adds to a step: the mask of 256 running requests, on each runner's own state; no engine."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from engine import BLOCK_TOKENS, MAX_MODEL_TOKENS, Engine
from figures import Results, Row, Spread, Target, median_of
from subject import Subject

REQUESTS, STEP_TOKENS, ADAPTERS = 256, 2048, 2
PROMPT_LENGTHS = (512, 8000)
REPEATS = 300
INVOCATION = (7, 8, 9)
LIMIT_US = 100


def measure_mask(results: Results) -> None:
    """Time the plugin's part of ``make_lora_inputs`` in three steps at each prompt length; add the rows.

    The part is the patched function less vLLM's own, both called on the same state in turn.
    """
    for runner, state_of in RUNNERS.items():
        for name, chunks in STEPS.items():
            for length in PROMPT_LENGTHS:
                computed, scheduled = chunks(length)
                spread, whole, own = _added_us(*state_of(length, computed, scheduled))
                results.add(
                    Row(
                        f"mask per step, {runner}, {REQUESTS} requests, {name}, prompts of {length:,}",
                        spread,
                        "us",
                        Target(at_most=LIMIT_US),
                        f"{whole:.0f} us, of which vLLM's own {own:.0f}; {int(scheduled.sum()):,} tokens",
                    )
                )


def _decoding(length: int) -> tuple[np.ndarray, np.ndarray]:
    """Every request past its activation point: the common step."""
    return np.full(REQUESTS, length + 1), np.ones(REQUESTS, dtype=np.int32)


def _one_prefill(length: int) -> tuple[np.ndarray, np.ndarray]:
    """One request at the start of its prompt beside decoding ones."""
    computed, scheduled = _decoding(length)
    computed[-1], scheduled[-1] = 0, min(length, STEP_TOKENS - REQUESTS + 1)
    return computed, scheduled


def _all_prefill(length: int) -> tuple[np.ndarray, np.ndarray]:
    """Every request before its activation point, each with an equal part of the step."""
    return np.zeros(REQUESTS, dtype=np.int32), np.full(REQUESTS, STEP_TOKENS // REQUESTS, dtype=np.int32)


STEPS: dict[str, Callable[[int], tuple[np.ndarray, np.ndarray]]] = {
    "all decode": _decoding,
    "one prefills": _one_prefill,
    "all prefill": _all_prefill,
}


def _state_of_v1(length: int, computed: np.ndarray, scheduled: np.ndarray) -> tuple[Any, tuple[Any, ...]]:
    """Return an ``InputBatch`` of aLoRA requests that activate just before the prompt's end, and a step's arguments."""
    import torch
    from vllm import SamplingParams
    from vllm.v1.worker.gpu_input_batch import CachedRequestState, InputBatch

    from vllm_alora.activation import ACTIVATION_KEY

    batch = InputBatch(
        max_num_reqs=REQUESTS,
        max_model_len=MAX_MODEL_TOKENS,
        max_num_batched_tokens=STEP_TOKENS,
        device=torch.device("cpu"),
        vocab_size=1024,
        block_sizes=[BLOCK_TOKENS],
        max_num_blocks_per_req=[MAX_MODEL_TOKENS // BLOCK_TOKENS],
    )
    for index, lora_request in enumerate(_adapters()):
        batch.add_request(
            CachedRequestState(
                req_id=str(index),
                prompt_token_ids=[1] * (length - len(INVOCATION)) + list(INVOCATION),
                mm_features=[],
                sampling_params=SamplingParams(extra_args={ACTIVATION_KEY: length - len(INVOCATION)}),
                generator=None,
                block_ids=([1] * (length // BLOCK_TOKENS),),
                num_computed_tokens=0,
                output_token_ids=[],
                lora_request=lora_request,
            )
        )
    batch.num_computed_tokens_cpu[:REQUESTS] = computed
    return batch, (scheduled, np.ones(REQUESTS, dtype=np.int32))


def _state_of_v2(length: int, computed: np.ndarray, scheduled: np.ndarray) -> tuple[Any, tuple[Any, ...]]:
    """Return a ``LoraState`` of the same requests, and a step's arguments."""
    from vllm.v1.worker.gpu.lora_utils import LoraState

    from vllm_alora.patches.runner_v2 import STATES_ATTRIBUTE, watch

    state, names = LoraState(REQUESTS), [str(index) for index in range(REQUESTS)]
    for index, lora_request in enumerate(_adapters()):
        state.add_request(names[index], index, lora_request)
    positions = SimpleNamespace(**{STATES_ATTRIBUTE: computed})
    watch(state, positions, dict.fromkeys(names, length - len(INVOCATION)))
    return state, (names, np.arange(REQUESTS), scheduled)


def _adapters() -> Iterator[Any]:
    """Yield each request's adapter."""
    from vllm.lora.request import LoRARequest

    for index in range(REQUESTS):
        number = 1 + index % ADAPTERS
        yield LoRARequest(f"a{number}", number, "/none")


RUNNERS = {"V1": _state_of_v1, "V2": _state_of_v2}


def _added_us(state: Any, arguments: tuple[Any, ...]) -> tuple[Spread, float, float]:
    """Return the plugin's time, and the medians of the whole function and of vLLM's own."""
    whole = type(state).make_lora_inputs
    own = whole.__wrapped__
    times: dict[Any, list[float]] = {whole: [], own: []}
    for repeat in range(REPEATS + 1):
        for function in (whole, own) if repeat % 2 else (own, whole):
            start = time.perf_counter()
            function(state, *arguments)
            if repeat:  # The first call of each finds cold caches.
                times[function].append((time.perf_counter() - start) * 1e6)
    # One interrupt in 300 calls is not the plugin's: the ends are the 5 % and 95 % quantiles.
    added = np.subtract(times[whole], times[own])
    low, middle, high = (float(value) for value in np.quantile(added, (0.05, 0.5, 0.95)))
    return Spread(middle, low, high, REPEATS), median_of(times[whole]).value, median_of(times[own]).value


def measure_activation(subject: Subject, engine: Engine, generator: random.Random, results: Results) -> None:
    """Time the search for the activation point, and count how often a request of 16 tokens makes it; add the rows."""
    from vllm_alora.activation import find_activation

    for length in PROMPT_LENGTHS:
        prompt = subject.tokens(length, generator) + list(subject.alora.invocation)
        taken = _times_us(lambda prompt=prompt: find_activation(prompt, subject.alora.invocation))
        results.add(
            Row(f"activation search per request, {length:,} tokens", median_of(taken), "us", note="found at the end")
        )
    calls = _count_searches(subject, engine, generator)
    results.add(Row("activation searches of a request with 16 answer tokens", median_of([calls]), "", Target(1, 1)))


def _times_us(run: Callable[[], Any]) -> list[float]:
    taken = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        taken.append((time.perf_counter() - start) * 1e6)
    return taken


def _count_searches(subject: Subject, engine: Engine, generator: random.Random) -> int:
    from vllm_alora import decision

    calls = 0
    original = decision.find_activation

    def counting(token_ids: Sequence[int], invocation_ids: Sequence[int]) -> int | None:
        nonlocal calls
        calls += 1
        return original(token_ids, invocation_ids)

    decision.find_activation = counting
    try:
        engine.call(subject.tokens(100, generator) + list(subject.alora.invocation), subject.alora, 16)
    finally:
        decision.find_activation = original
    return calls
