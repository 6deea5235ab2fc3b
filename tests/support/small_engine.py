"""A small engine with round times, and calls for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from aloraserve.blocks import BlockKey, KeySpace
from aloraserve.engine_model.calibration import AdapterTimes, Calibration, DecodeTimes, PrefillTimes
from aloraserve.simulation.base import Kind, SimulatedCall

BLOCK = 16
SPACE = KeySpace("model", "tokenizer", BLOCK)
MakeCall = Callable[..., SimulatedCall]


@pytest.fixture
def calibration() -> Calibration:
    """10 ms a step and 1 ms a token; decoding 20 ms a step and 1 ms an answer; two adapter slots, 0.5 s a load."""
    return Calibration(
        name="round",
        machine="paper",
        model="none",
        dtype="bfloat16",
        date="2026-01-01",
        sources=["this test"],
        prefill=PrefillTimes(fixed_s=0.010, s_per_token=0.001, s_per_square_token=0.0),
        decode=DecodeTimes(fixed_s=0.020, s_per_sequence=0.001, s_per_context_token=0.0),
        adapters=AdapterTimes(load_s=0.5, slots=2, resident=2),
        kv_tokens=1600,
        block_tokens=BLOCK,
        max_num_batched_tokens=256,
        max_num_seqs=4,
    )


@pytest.fixture
def make_call() -> MakeCall:
    """Make calls whose prompts begin a stream of tokens; an adapter's ends in ``own`` blocks of its own."""
    numbers = iter(range(10**6))

    def make(
        prompt: int = 64,
        output: int = 1,
        *,
        stream: int = 0,
        adapter: str | None = None,
        kind: Kind = "base",
        own: int = 0,
        arrival_s: float = 0.0,
    ) -> SimulatedCall:
        def keys() -> list[BlockKey]:
            whole = prompt // BLOCK - own
            base = SPACE.extend(SPACE.root(str(stream)), range(whole * BLOCK))
            if not own:
                return base
            last = base[-1] if base else SPACE.root(str(stream))
            return base + SPACE.extend(last, range(own * BLOCK), (adapter or "").encode())

        return SimulatedCall(
            request=next(numbers),
            arrival_s=arrival_s,
            session=str(stream),
            adapter=adapter,
            kind=kind,
            prompt_tokens=prompt,
            output_tokens=output,
            block_tokens=BLOCK,
            key_source=keys,
            content_source=keys,
            salted_source=keys,
        )

    return make
