"""The prompts with which an engine is warmed up, so that how long its steps take is known before its first call."""

from __future__ import annotations

import math

from aloraserve.engine_model.calibration import Calibration
from aloraserve.engine_model.request import Request
from aloraserve.engine_model.scheduler import Scheduler
from aloraserve.engine_model.step_stats import StepStats

WARM_UP_PROMPTS = (256, 64, 256, 16)
"""Tokens of each prompt. Lengths differ, so that what each step takes is known apart from what each token does; an
engine's first prompt is slower than any later one, so its length comes twice."""
WARM_UP_ANSWER = 4
"""Tokens of each answer."""


def warm_up_steps(calibration: Calibration) -> list[StepStats]:
    """Return the steps of a modelled engine while it is warmed up."""
    scheduler = Scheduler(calibration, kv_tokens=calibration.kv_tokens, block_tokens=calibration.block_tokens)
    steps: list[StepStats] = []
    now_s = 0.0
    for number, tokens in enumerate(WARM_UP_PROMPTS):
        scheduler.add_request(
            Request(
                request_id=number,
                arrival_s=now_s,
                prompt_keys=(),
                num_prompt_tokens=tokens,
                max_tokens=WARM_UP_ANSWER,
            )
        )
        scheduler.schedule(now_s)
        while scheduler.next_event_s < math.inf:
            now_s = scheduler.next_event_s
            steps += scheduler.advance(now_s).steps
    return steps
