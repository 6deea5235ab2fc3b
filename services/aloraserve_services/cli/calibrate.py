"""``aloraserve calibrate``: times one engine, and the way to it, for the simulator and the simulated engine."""

from __future__ import annotations

import asyncio
import datetime
import itertools
import json
import multiprocessing
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aloraserve.engine_model.calibration import AdapterTimes, Calibration
from aloraserve.engine_model.fitting import (
    DecodeSample,
    PrefillSample,
    decode_error,
    fit_decode,
    fit_prefill,
    prefill_error,
)
from aloraserve.errors import StartError
from aloraserve_services.cli.bench import machine
from aloraserve_services.cli.client import TimedClient
from aloraserve_services.plan import FleetPlan

COLD_TOKENS = (64, 128, 256, 512, 1024, 2048, 4096)
CACHED_TOKENS = ((512, 16), (512, 64), (512, 512), (1024, 32), (1024, 256), (2048, 16), (2048, 512), (3072, 1024))
"""Tokens that are cached, and tokens after them."""
ADAPTER_TOKENS = ((0, 64), (0, 512), (0, 2048), (512, 16), (1024, 32), (2048, 16))
"""The same, of a plain LoRA's calls."""
DECODE_BATCHES = (1, 2, 4, 8)
DECODE_CONTEXTS = (128, 1024)
DECODE_TOKENS = 24
OVERHEAD_TOKENS = (64, 256, 512, 1024)
MEASURE_TIMEOUT_S = 3600.0
_OTHER_ANSWER_TOKENS = 256


@dataclass(slots=True)
class EngineFigures:
    """What was timed in one engine.

    Args:
        prefills: alone, medians over rounds.
        decodes: steps.
        adapter_load_s: of one adapter.
        step_tokens: tokens a step.
    """

    prefills: list[PrefillSample] = field(default_factory=list)
    decodes: list[DecodeSample] = field(default_factory=list)
    adapter_load_s: float = 0.0
    step_tokens: int = 0


class EngineTimer:
    """Times one engine from inside its process.

    Args:
        plan: of a fleet with adapters.
        engine: started, its adapters not loaded.
        rounds: how often each length is timed; medians count.
        seed: of the prompts.
        progress: told what is being timed.
    """

    def __init__(
        self, plan: FleetPlan, engine: Any, *, rounds: int, seed: int, progress: Callable[[str], None]
    ) -> None:
        self._plan = plan
        self._engine = engine
        self._rounds = rounds
        self._random = random.Random(seed)  # noqa: S311
        self._progress = progress
        self._calls = 0
        self._most = plan.settings.max_model_len - _OTHER_ANSWER_TOKENS

    async def measure(self) -> EngineFigures:
        """Time everything."""
        figures = EngineFigures(step_tokens=self._engine.step_tokens)
        started = time.perf_counter()
        await self._engine.load_adapters()
        loaded = min(len(self._plan.adapters), self._plan.settings.max_loras)
        figures.adapter_load_s = (time.perf_counter() - started) / max(loaded, 1)
        await self._warm_up()
        for length in self._fitting(COLD_TOKENS):
            figures.prefills.append(await self._prefill(0, length))
        for cached, added in CACHED_TOKENS:
            if cached + added <= self._most:
                figures.prefills.append(await self._prefill(cached, added))
        adapter = next((one.name for one in self._plan.adapters if not one.invocation_ids), None)
        for cached, added in ADAPTER_TOKENS if adapter is not None else ():
            if cached + added <= self._most:
                figures.prefills.append(await self._prefill(cached, added, adapter))
        for context in self._fitting(DECODE_CONTEXTS):
            for batch in DECODE_BATCHES:
                figures.decodes.append(await self._decode(batch, context))
        return figures

    def _fitting(self, lengths: tuple[int, ...]) -> list[int]:
        return [length for length in lengths if length <= self._most]

    async def _warm_up(self) -> None:
        self._progress("warming up")
        adapters = [one.name for one in self._plan.adapters if not one.invocation_ids][:1]
        for adapter in (None, None, *adapters, *adapters):
            await self._timed(self._tokens(512), 4, adapter)

    async def _prefill(self, cached: int, added: int, adapter: str | None = None) -> PrefillSample:
        """Time the first token of a prompt whose first ``cached`` tokens were computed before."""
        self._progress(f"prefill of {added} tokens after {cached} cached{' by an adapter' if adapter else ''}")
        seconds, starts = [], []
        for _ in range(self._rounds):
            prefix = self._tokens(cached)
            if cached:
                await self._timed(prefix, 1, adapter)
            times, held = await self._timed(prefix + self._tokens(added), 2, adapter)
            seconds.append(times[0])
            starts.append(held)
        return PrefillSample(
            round(statistics.median(starts)), cached + added, statistics.median(seconds), adapter is not None
        )

    async def _decode(self, batch: int, context: int) -> DecodeSample:
        """Time the steps of a batch of answers, while all of them run."""
        self._progress(f"decoding {batch} answers with contexts of {context} tokens")
        prompts = [self._tokens(context) for _ in range(batch)]
        for prompt in prompts:
            await self._timed(prompt, 1, None)
        begun = time.perf_counter()
        answers = await asyncio.gather(*(self._stamps(prompt, DECODE_TOKENS, None) for prompt in prompts))
        first = max(stamps[0] for stamps, _ in answers)
        last = min(stamps[-1] for stamps, _ in answers)
        gaps = [
            later - earlier
            for stamps, _ in answers
            for earlier, later in itertools.pairwise(stamps)
            if earlier >= first and later <= last
        ]
        if not gaps:
            raise StartError(f"answers of a batch of {batch} did not run together after {first - begun:.3f} s")
        return DecodeSample(batch, batch * (context + DECODE_TOKENS / 2), statistics.median(gaps))

    async def _timed(self, token_ids: list[int], answer: int, adapter: str | None) -> tuple[list[float], int]:
        started = time.perf_counter()
        stamps, cached = await self._stamps(token_ids, answer, adapter)
        return [one - started for one in stamps], cached

    async def _stamps(self, token_ids: list[int], answer: int, adapter: str | None) -> tuple[list[float], int]:
        """Return when each chunk of an answer came, and how many prompt tokens were cached."""
        from aloraserve.serving.engine_messages import EngineCall, EngineRefusal
        from aloraserve.wire.sampling import SamplingSettings

        self._calls += 1
        sampling = SamplingSettings(max_tokens=answer, temperature=0.0)
        call = EngineCall(f"calibrate-{self._calls}", token_ids, sampling, adapter=adapter)
        stamps: list[float] = []
        cached = 0
        async for reply in self._engine.generate(call):
            if isinstance(reply, EngineRefusal):
                raise StartError(f"the engine refused a call: {reply.message}")
            stamps.append(time.perf_counter())
            cached = reply.cached_tokens
        return stamps, cached

    def _tokens(self, count: int) -> list[int]:
        return [self._random.randrange(100, 40_000) for _ in range(count)]


def engine_figures(plan: FleetPlan, *, rounds: int, seed: int, progress: Callable[[str], None]) -> EngineFigures:
    """Time one engine in a process of its own, which ends with it.

    Raises:
        StartError: the engine does not start, or fails.
    """
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_measure_in_process, args=(plan, rounds, seed, sending))
    process.start()
    sending.close()
    deadline = time.monotonic() + MEASURE_TIMEOUT_S
    try:
        while receiving.poll(max(deadline - time.monotonic(), 0)):
            message = receiving.recv()
            if isinstance(message, EngineFigures):
                return message
            progress(message)
        raise StartError(f"the engine was not measured within {MEASURE_TIMEOUT_S:g} s")
    except EOFError:
        process.join(10)
        raise StartError(f"the engine's process ended (exit code {process.exitcode}) before it was measured") from None
    finally:
        process.terminate()
        process.join(10)
        if process.is_alive():
            process.kill()


def _measure_in_process(plan: FleetPlan, rounds: int, seed: int, sending: Any) -> None:
    from aloraserve_services.engine.vllm.engine import VllmEngine, prepare_environment

    prepare_environment(plan)
    with tempfile.TemporaryDirectory(prefix="aloraserve-calibrate-") as folder:
        asyncio.run(_measure(plan, rounds, seed, sending, f"ipc://{folder}/events", VllmEngine))


async def _measure(plan: FleetPlan, rounds: int, seed: int, sending: Any, endpoint: str, make: Any) -> None:
    sending.send(f"starting one engine with {plan.served_name} in {plan.dtype}")
    engine = make(plan, endpoint)
    try:
        timer = EngineTimer(plan, engine, rounds=rounds, seed=seed, progress=sending.send)
        sending.send(await timer.measure())
    finally:
        engine.shutdown()


def overhead_s(plan: FleetPlan, client: TimedClient, expected: Callable[[int, int], float], seed: int) -> float:
    """Return how much longer than its engine a call's first token takes through HTTP, the median over some lengths.

    Args:
        plan: of a running platform with one replica.
        client: for its HTTP API.
        expected: the engine's time, from cached and prompt tokens.
        seed: of the prompts.
    """
    chooser = random.Random(f"overhead {seed}")  # noqa: S311
    lengths = [length for length in OVERHEAD_TOKENS if length <= plan.settings.max_model_len - _OTHER_ANSWER_TOKENS]
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
        machine=machine(),
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
            resident=max(len(plan.adapters), settings.max_loras),
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
