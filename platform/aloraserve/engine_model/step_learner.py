"""Learns how long an engine's steps take from the steps that it reports, whatever they compute side by side."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from aloraserve.engine_model.step_fit import fit
from aloraserve.engine_model.step_model import StepModel
from aloraserve.engine_model.step_stats import StepStats

MAX_STRATA = 64
STEPS_A_STRATUM = 16
SPACING_S = 1.0
"""Between the steps kept of a stratum that is full: so they say more than what the last moment was like."""
HALF_LIFE_S = 600.0
"""The weight of a step halves with its age."""
MIN_SECONDS, MAX_SECONDS = 1e-6, 3600.0
"""Of a step: what is shorter computed nothing, what is longer stood still."""
REFIT_SHARE = 0.25
"""Of the steps that a model rests on, how many new ones lead to the next: a fit of all takes some milliseconds."""
GOOD_ERROR = 0.01
"""While new steps take what they should within this, there is nothing to learn from them."""
PRIOR_WEIGHT = 0.25
PRIOR_STEPS = 8
"""After so many steps of its own, what a learner began with counts half, and so on."""

Stratum = tuple[int, int, int, bool]


@dataclass(frozen=True, slots=True)
class ModelQuality:
    """How well the prefill part of a model is known.

    Args:
        samples: kept steps with prompt tokens.
        median_error: of those, the median relative error.
        longest_tokens: the longest prompt of which one computed the end.
    """

    samples: int = 0
    median_error: float = math.inf
    longest_tokens: int = 0


class StepLearner:
    """Keeps a sample of an engine's steps and fits a model to them (:mod:`aloraserve.engine_model.step_fit`).

    - Bounded: ``STEPS_A_STRATUM`` steps of each kind (powers of two of prompt tokens, what they attend to and answers;
      with adapters or not), ``MAX_STRATA`` kinds. Long prompts stay known through any number of short ones.
    - Forgets slowly: of a kind that is often seen, it keeps one step per ``SPACING_S``, and older ones count less. So
      what else the machine did for a second or two decides nothing.
    - Begins with what others know: ``prior`` counts until there are own steps.
    - Cheap: some microseconds a step, and a fit when a part of the sample is new and is not as expected.

    For one thread.

    Args:
        prior: steps as they are expected before the first one was seen.
        clock: monotonic seconds.
    """

    def __init__(self, prior: Sequence[StepStats] = (), clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._strata: dict[Stratum, deque[tuple[float, StepStats]]] = {}
        self._model: StepModel | None = None
        self._quality = ModelQuality()
        self._has_answers = False
        self._new = self._fitted = 0
        self._error = 0.0
        self.prior = prior

    @property
    def prior(self) -> Sequence[StepStats]:
        """See the class."""
        return self._prior

    @prior.setter
    def prior(self, steps: Sequence[StepStats]) -> None:
        self._prior = tuple(steps)
        # The next model is of them, too.
        self._model, self._new = None, self._new + 1

    def add(self, step: StepStats) -> None:
        """Take in a step; one that computed nothing, or whose time makes no sense, is ignored."""
        if not (step.prefill_tokens > 0 or step.answers > 0) or not MIN_SECONDS <= step.seconds <= MAX_SECONDS:
            return
        now_s = self._clock()
        stratum = self._stratum(_kind(step))
        if len(stratum) == STEPS_A_STRATUM and now_s - stratum[-1][0] < SPACING_S:
            return
        stratum.append((now_s, step))
        self._new += 1
        if self._model is not None:
            # A mean that follows the last few dozen.
            self._error += (abs(self._model.seconds(step) / step.seconds - 1) - self._error) / min(self._new, 32)

    def model(self) -> StepModel | None:
        """Return the model, None before anything is known. Cheap unless enough has changed."""
        if self._new and (self._model is None or self._is_outdated):
            self._fit()
        return self._model

    @property
    def quality(self) -> ModelQuality:
        """Of the model that :meth:`model` last returned."""
        return self._quality

    @property
    def knows_answers(self) -> bool:
        """Whether the model rests on steps that computed answers."""
        return self._has_answers

    @property
    def _is_outdated(self) -> bool:
        return self._new >= max(1.0, REFIT_SHARE * self._fitted) and self._error > GOOD_ERROR

    def _stratum(self, kind: Stratum) -> deque[tuple[float, StepStats]]:
        # Taken out and put back in, so that the first of the dictionary is the one that waited longest.
        stratum = self._strata.pop(kind, None) or deque(maxlen=STEPS_A_STRATUM)
        self._strata[kind] = stratum
        if len(self._strata) > MAX_STRATA:
            del self._strata[next(iter(self._strata))]
        return stratum

    def _fit(self) -> None:
        own = [sample for stratum in self._strata.values() for sample in stratum]
        steps = [step for _, step in own] + list(self._prior)
        if not steps:
            return
        now_s = self._clock()
        weights = [0.5 ** ((now_s - at_s) / HALF_LIFE_S) for at_s, _ in own]
        weights += [PRIOR_WEIGHT / (1 + len(own) / PRIOR_STEPS)] * len(self._prior)
        self._model = model = fit(steps, np.array(weights))
        self._quality = _quality(model, [step for _, step in own if step.prefill_tokens])
        self._has_answers = any(step.answers for step in steps)
        self._fitted, self._new, self._error = len(own), 0, 0.0


def _kind(step: StepStats) -> Stratum:
    """Return which steps one is like."""
    tokens = step.prefill_tokens
    attended = int(step.prefill_squares / tokens).bit_length() // 2 if tokens else 0
    # One to eight answers are kinds of their own: few engines have more.
    answers = step.answers if step.answers < 8 else 4 + step.answers.bit_length()
    return tokens.bit_length(), attended, answers, step.adapter_tokens + step.adapter_answers > 0


def _quality(model: StepModel, prefills: Sequence[StepStats]) -> ModelQuality:
    if not prefills:
        return ModelQuality()
    errors = [abs(model.seconds(step) / step.seconds - 1) for step in prefills]
    return ModelQuality(len(prefills), float(np.median(errors)), max(step.prefill_reach for step in prefills))
