"""Times one engine in a process of its own: prefill, decoding and the load of adapters."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aloraserve.adapters import AdapterRef
from aloraserve.engine_model.fitting import DecodeSample, PrefillSample
from aloraserve.errors import StartError
from aloraserve_services.plan import FleetPlan

COLD_TOKENS = (64, 128, 256, 512, 1024, 2048, 4096)
CACHED_TOKENS = ((512, 16), (512, 64), (512, 512), (1024, 32), (1024, 256), (2048, 16), (2048, 512), (3072, 1024))
"""Tokens that are cached, and tokens after them."""
ADAPTER_TOKENS = ((0, 64), (0, 512), (0, 2048), (512, 16), (1024, 32), (2048, 16))
"""The same, of a plain LoRA's calls."""
DECODE_BATCHES = (1, 2, 4, 8)
DECODE_CONTEXTS = (128, 1024)
DECODE_TOKENS = 24
MEASURE_TIMEOUT_S = 3600.0
ANSWER_ROOM_TOKENS = 256


@dataclass(slots=True)
class EngineFigures:
    """Times of one engine.

    Args:
        prefills: alone, medians over rounds.
        decodes: steps.
        adapter_load_s: of one adapter.
        step_tokens: tokens per step.
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
        progress: called with what is being timed.
    """

    def __init__(
        self, plan: FleetPlan, engine: Any, *, rounds: int, seed: int, progress: Callable[[str], None]
    ) -> None:
        self._engine = engine
        self._versions = plan.open_registry().all()[: plan.settings.max_loras]
        self._plain = next((version.ref for version in self._versions if not version.invocation_ids), None)
        self._rounds = rounds
        self._random = random.Random(seed)  # noqa: S311
        self._progress = progress
        self._calls = 0
        self._most = plan.settings.max_model_len - ANSWER_ROOM_TOKENS

    async def measure(self) -> EngineFigures:
        """Time everything."""
        figures = EngineFigures(step_tokens=self._engine.step_tokens)
        started = time.perf_counter()
        for version in self._versions:
            await self._engine.add_adapter(version)
        figures.adapter_load_s = (time.perf_counter() - started) / max(len(self._versions), 1)
        await self._warm_up()
        for length in self._fitting(COLD_TOKENS):
            figures.prefills.append(await self.time_prefill(0, length))
        for cached, added in CACHED_TOKENS:
            if cached + added <= self._most:
                figures.prefills.append(await self.time_prefill(cached, added))
        for cached, added in ADAPTER_TOKENS if self._plain is not None else ():
            if cached + added <= self._most:
                figures.prefills.append(await self.time_prefill(cached, added, self._plain))
        for context in self._fitting(DECODE_CONTEXTS):
            for batch in DECODE_BATCHES:
                figures.decodes.append(await self.time_decode(batch, context))
        return figures

    def _fitting(self, lengths: tuple[int, ...]) -> list[int]:
        return [length for length in lengths if length <= self._most]

    async def _warm_up(self) -> None:
        self._progress("warming up")
        for adapter in (None, None, *[self._plain] * 2):
            await self._timed(self.tokens(512), 4, adapter)

    async def time_prefill(self, cached: int, added: int, adapter: AdapterRef | None = None) -> PrefillSample:
        """Time the first token of a prompt whose first ``cached`` tokens were computed before."""
        self._progress(f"prefill of {added} tokens after {cached} cached{' by an adapter' if adapter else ''}")
        seconds, starts = [], []
        for _ in range(self._rounds):
            prefix = self.tokens(cached)
            if cached:
                await self._timed(prefix, 1, adapter)
            times, held = await self._timed(prefix + self.tokens(added), 2, adapter)
            seconds.append(times[0])
            starts.append(held)
        return PrefillSample(
            round(statistics.median(starts)), cached + added, statistics.median(seconds), adapter is not None
        )

    async def time_decode(self, batch: int, context: int) -> DecodeSample:
        """Time the steps of a batch of answers, while all of them run."""
        self._progress(f"decoding {batch} answers with contexts of {context} tokens")
        prompts = [self.tokens(context) for _ in range(batch)]
        for prompt in prompts:
            await self._timed(prompt, 1, None)
        begun = time.perf_counter()
        answers = await asyncio.gather(*(self.stamps(prompt, DECODE_TOKENS, None) for prompt in prompts))
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

    async def _timed(self, token_ids: list[int], answer: int, adapter: AdapterRef | None) -> tuple[list[float], int]:
        started = time.perf_counter()
        stamps, cached = await self.stamps(token_ids, answer, adapter)
        return [stamp - started for stamp in stamps], cached

    async def stamps(self, token_ids: list[int], answer: int, adapter: AdapterRef | None) -> tuple[list[float], int]:
        """Return when each chunk of an answer came, and how many prompt tokens were cached."""
        from aloraserve.serving.engine_messages import EngineCall, EngineChunk
        from aloraserve.wire.sampling import SamplingSettings

        self._calls += 1
        sampling = SamplingSettings(max_tokens=answer, temperature=0.0)
        call = EngineCall(f"calibrate-{self._calls}", token_ids, sampling, adapter=adapter)
        stamps: list[float] = []
        cached = 0
        async for reply in self._engine.generate(call):
            if not isinstance(reply, EngineChunk):
                raise StartError(f"the engine refused a call: {reply.message}")
            stamps.append(time.perf_counter())
            cached = reply.cached_tokens
        return stamps, cached

    def tokens(self, count: int) -> list[int]:
        """Return a prompt that was never there."""
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
