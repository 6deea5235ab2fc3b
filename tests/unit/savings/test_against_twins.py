"""What calls are said to have saved, against plain LoRA twins on an equal modelled engine, in virtual time."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest

from aloraserve.blocks import AdapterEffect, BlockKey, KeySpace
from aloraserve.engine_model.calibration import Calibration, load
from aloraserve.engine_model.request import Request
from aloraserve.engine_model.scheduler import Scheduler
from aloraserve.engine_model.step_learner import StepLearner
from aloraserve.engine_model.warm_up import warm_up_steps
from aloraserve.savings.base import CallSavings
from aloraserve.savings.meter import SavingsMeter

BLOCK = 32
SPACE = KeySpace("model", "tokenizer", BLOCK)
NAMES = ("safety", "sibling", "third", "fourth")
SALTS = {name: AdapterEffect(name, "digest", 0).salt for name in NAMES}
INVOCATION = [50_000, 50_001]


class Engine:
    """A modelled engine that computes bursts of calls, with a meter and a learner as in a replica."""

    def __init__(self, times: Calibration) -> None:
        self.now_s = 0.0
        self._scheduler = Scheduler(times, kv_tokens=times.kv_tokens, block_tokens=BLOCK)
        self._learner = StepLearner(clock=lambda: self.now_s)
        for step in warm_up_steps(times):
            self._learner.add(step)
        self._meter = SavingsMeter(
            SPACE,
            SALTS.get,
            times.kv_tokens // BLOCK,
            self._learner,
            step_tokens=times.max_num_batched_tokens,
        )
        self._calls = 0

    def burst(
        self, conversation: Sequence[int], names: Sequence[str | None], *, twins: bool = False
    ) -> tuple[float, list[CallSavings]]:
        """Have calls answered that come at once; return their TTFTs together, and what they are said to have saved."""
        requests: dict[str, Request] = {}
        for name in names:
            self._calls += 1
            prompt = [*conversation, *(INVOCATION if name else ())]
            start = 0 if twins else len(conversation)
            effect = None if name is None else AdapterEffect(name, "digest", start)
            keys = SPACE.keys(prompt, adapter=effect)
            request_id = f"r{self._calls}"
            self._meter.accept(request_id, prompt, keys, name, None, () if twins else INVOCATION)
            requests[request_id] = self._request(request_id, keys, len(prompt), name)
        for request in requests.values():
            self._scheduler.add_request(request)
        self._scheduler.schedule(self.now_s)
        found = self._run()
        return sum(request.first_token_s - request.arrival_s for request in requests.values()), found

    def _request(self, request_id: str, keys: list[BlockKey], tokens: int, name: str | None) -> Request:
        return Request(
            request_id=request_id,
            arrival_s=self.now_s,
            prompt_keys=keys,
            num_prompt_tokens=tokens,
            max_tokens=4,
            adapter=name,
        )

    def _run(self) -> list[CallSavings]:
        found: list[CallSavings] = []
        while self._scheduler.next_event_s < math.inf:
            self.now_s = self._scheduler.next_event_s
            outputs = self._scheduler.advance(self.now_s)
            for step in outputs.steps:
                self._learner.add(step)
            for request in outputs.first_tokens:
                saved = self._meter.first_token(str(request.request_id), request.num_cached_tokens)
                assert saved is not None
                found.append(saved)
            for request in outputs.finished:
                self._meter.end(str(request.request_id))
        self.now_s += 1.0
        return found


def played(name: str, at_once: int) -> tuple[float, float]:
    """Return what calls were said to have saved and what they saved, over conversations of all lengths."""
    times, draw = load(name), random.Random(0)
    alora, lora = Engine(times), Engine(times)
    # A replica that served plain LoRAs knows what their adapters cost.
    for engine in (alora, lora):
        engine.burst([draw.randrange(40_000) for _ in range(3000)], ["fourth"], twins=True)
    estimated = real = 0.0
    for length in (200, 500, 1000, 2000, 4000, 7000) * 2:
        conversation = [draw.randrange(40_000) for _ in range(length)]
        for engine in (alora, lora):
            engine.burst(conversation, [None])
        actual_s, savings = alora.burst(conversation, NAMES[:at_once])
        twins_s, _ = lora.burst(conversation, NAMES[:at_once], twins=True)
        estimated += sum(saved.saved_s for saved in savings)
        real += twins_s - actual_s
    return estimated, real


@pytest.mark.parametrize("name", ["cpu-smollm2", "h100-llama-3.1-8b"])
def test_calls_one_at_a_time_save_what_is_said_within_a_twentieth(name: str) -> None:
    estimated, real = played(name, 1)
    assert estimated == pytest.approx(real, rel=0.05)


@pytest.mark.parametrize("name", ["cpu-smollm2", "h100-llama-3.1-8b"])
def test_calls_that_wait_for_each_other_save_no_less_than_is_said(name: str) -> None:
    # Prompts that share a step have their first tokens at its end, the first ones too: that is not counted.
    estimated, real = played(name, 3)
    assert 0.75 * real < estimated < 1.05 * real
