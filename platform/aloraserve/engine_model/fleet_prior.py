"""What a new replica expects of its engine before it has seen a step: what the fleet's other replicas publish."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from aloraserve.directory.base import ReplicaLoad
from aloraserve.engine_model.step_stats import StepStats, squares
from aloraserve.routing.prefill_model import PrefillModel

PROMPTS = ((0, 16), (0, 256), (0, 2048), (6144, 8192))
"""Cached tokens and lengths of the prompts at which models are compared."""
MAX_ANSWERS = 16
"""Replicas whose decoding steps count."""


def fleet_prior(loads: Sequence[ReplicaLoad]) -> list[StepStats]:
    """Return steps as the fleet's median replica would take them, nothing if none has learned its rates yet.

    Args:
        loads: of the other replicas, as they publish them.
    """
    models = [_prefill(load) for load in loads if load.prefill_s_per_token > 0]
    if not models:
        return []
    # Only where nothing waits are all of a replica's tokens those of its answers.
    decoding = [load for load in loads if load.decode_step_s > 0 and load.running > 0 and not load.waiting]
    prefills = [_median_prefill(models, *prompt) for prompt in PROMPTS]
    return prefills + [_answers(load) for load in decoding[:MAX_ANSWERS]]


def _prefill(load: ReplicaLoad) -> PrefillModel:
    return PrefillModel(load.prefill_fixed_s, load.prefill_s_per_token, load.prefill_s_per_square_token)


def _median_prefill(models: Sequence[PrefillModel], start: int, end: int) -> StepStats:
    seconds = statistics.median(model.seconds(start, end) for model in models)
    return StepStats(seconds, prefill_tokens=end - start, prefill_squares=squares(start, end))


def _answers(load: ReplicaLoad) -> StepStats:
    return StepStats(load.decode_step_s, answers=load.running, context_tokens=load.running_tokens)
