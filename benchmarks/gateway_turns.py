"""Turns of the gateway benchmark: each arm's CPU time, throughput and TTFT, one arm after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from benchmarks.gateway_calls import (
    CALL_TOKENS,
    LONG_ANSWER,
    SHORT_ANSWER,
    STREAM_TOKENS,
    Arm,
    Bodies,
    interleaved_ttft,
    repeated,
    turn,
)
from benchmarks.gateway_result import CALLS_PER_S, CHUNKS_PER_S, ArmResult, add_ttft
from benchmarks.harness.processes import used

CALLS, CALLS_AT_ONCE = 240, 16
STREAMS, STREAMS_AT_ONCE = 24, 4
STREAM_PROMPT_TOKENS = 100
THROUGHPUT_S = 3.0
TTFT_CALLS = 300
IDLE_S = 3.0


class GatewayTurns:
    """Plays turns and keeps what came of them.

    Args:
        arms: the bare engines last.
        bodies: to send.

    Attributes:
        results: of each arm, in their order.
    """

    def __init__(self, arms: Sequence[Arm], bodies: Bodies) -> None:
        self.results = [ArmResult(arm.name) for arm in arms]
        self._arms = list(zip(arms, self.results, strict=True))
        self._bodies = bodies

    async def round(self) -> None:
        """Play one turn of everything with each arm; each round begins with another arm."""
        for measure in (self._calls, self._chunk_cpu, self._chunks):
            for arm, result in self._arms:
                await measure(arm, result)
        self._arms.append(self._arms.pop(0))

    async def ttft(self) -> None:
        """Call all arms in turn, one call at a time."""
        arms = [arm for arm, _ in self._arms]
        found = await interleaved_ttft(arms, self._bodies, TTFT_CALLS)
        add_ttft(self.results, found)

    async def idle(self) -> None:
        """Look at what the arms use while nobody calls."""
        looked = [(arm.processes, result) for arm, result in self._arms if arm.processes is not None]
        before = [processes.cpu_s() for processes, _ in looked]
        await asyncio.sleep(IDLE_S)
        for (processes, result), earlier in zip(looked, before, strict=True):
            result.idle_cpu_ms = _scaled(used(earlier, processes.cpu_s()), 1000 / IDLE_S)

    async def _calls(self, arm: Arm, result: ArmResult) -> None:
        """Whole answers of one token, as many at once as the throughput is asked for: idle time counts least."""
        made = repeated(lambda: self._bodies.fresh(CALL_TOKENS, 1), CALLS)
        played = await turn(arm, made, at_once=CALLS_AT_ONCE)
        result.samples[CALLS_PER_S].append(len(played.answers) / played.seconds)
        if played.cpu_s:
            result.call_cpu_ms.append(_scaled(played.cpu_s, 1000 / len(played.answers)))

    async def _chunk_cpu(self, arm: Arm, result: ArmResult) -> None:
        """Long answers and short ones, few at once: the difference is the chunks'."""
        if arm.processes is None:
            return
        turns = []
        for answer_tokens in (SHORT_ANSWER, LONG_ANSWER):
            made = repeated(lambda tokens=answer_tokens: self._streamed(tokens), STREAMS)  # type: ignore[misc]
            turns.append(await turn(arm, made, at_once=STREAMS_AT_ONCE))
        short, long = turns
        result.chunk_cpu_ms.append(_scaled(used(short.cpu_s, long.cpu_s), 1000 / (long.events - short.events)))

    async def _chunks(self, arm: Arm, result: ArmResult) -> None:
        made = repeated(lambda: self._streamed(STREAM_TOKENS))
        played = await turn(arm, made, at_once=CALLS_AT_ONCE, seconds=THROUGHPUT_S)
        result.samples[CHUNKS_PER_S].append(played.events / played.seconds)

    def _streamed(self, answer_tokens: int) -> dict[str, object]:
        return self._bodies.fresh(STREAM_PROMPT_TOKENS, answer_tokens, stream=True)


def _scaled(parts: dict[str, float], factor: float) -> dict[str, float]:
    return {part: seconds * factor for part, seconds in parts.items()}
