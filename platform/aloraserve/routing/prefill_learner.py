"""Learns a replica's :class:`~aloraserve.routing.prefill_model.PrefillModel` from the prefills that it sees."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aloraserve.routing.prefill_model import PrefillModel

MAX_STRATA = 64
SAMPLES_A_STRATUM = 16
HALF_LIFE_SAMPLES = 512
MIN_SECONDS, MAX_SECONDS = 1e-9, 86_400.0
"""Of a sample: no clock is finer, and nothing that took a day was a prefill."""
MIN_SAMPLES = 8
MIN_SPREAD = 1.5
ROUNDS = 24
FAR = 3.0
NEGLIGIBLE = 0.002
"""Relative error that is not better than none: clocks and prompts differ by more."""
COMBINATIONS = ((1,), (0, 1), (1, 2), (0, 1, 2))
"""Of the features' columns: 0 fixed, 1 linear, 2 quadratic. The linear part is always there."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PrefillQuality:
    """How well a model is known.

    Args:
        samples: prefills that it rests on.
        median_error: of those, the median relative error.
        longest_tokens: the most that one of them computed.
    """

    samples: int = 0
    median_error: float = math.inf
    longest_tokens: int = 0


@dataclass(frozen=True, slots=True)
class _Sample:
    number: int
    tokens: int
    square: float
    seconds: float


class PrefillLearner:
    """Fits the model's three parts to samples of prefills that ran alone. For one thread.

    - Robust: the fit minimizes the sum of absolute relative errors (least absolute deviations, by iteratively
      reweighted least squares: Holland and Welsch, "Robust regression using iteratively reweighted least-squares",
      1977), which like a median ignores the size of what lies far off. Something else on the machine that slows down
      every fifth prefill decides nothing.
    - No part is negative: of the combinations of parts whose least-squares solution has none, the best counts.
    - Simple where the samples are: with fewer than ``MIN_SAMPLES``, or prompts of about one length, it is the median
      rate alone; a further part is taken in only where it explains more than chance would.
    - Bounded: ``SAMPLES_A_STRATUM`` samples for each power of two of new and of all tokens, ``MAX_STRATA`` of these.
      Long prompts stay known through any number of short ones.
    - Forgets slowly: a sample's weight halves with every ``HALF_LIFE_SAMPLES`` that follow.

    Attributes:
        quality: of the model that :meth:`model` last returned.
    """

    def __init__(self) -> None:
        self._strata: dict[tuple[int, int], deque[_Sample]] = {}
        self._count = 0
        self._model: PrefillModel | None = None
        self.quality = PrefillQuality()
        self._stale = False
        self._fitted_at = 0

    def add(self, cached_tokens: int, prompt_tokens: int, seconds: float) -> None:
        """Take in one prefill; what cannot be one (no new tokens, a time that makes no sense) is ignored.

        Args:
            cached_tokens: leading prompt tokens that were not computed.
            prompt_tokens: the prompt's length.
            seconds: how long computing the others took.
        """
        tokens = prompt_tokens - cached_tokens
        if cached_tokens < 0 or tokens <= 0 or not MIN_SECONDS <= seconds <= MAX_SECONDS:
            return
        self._count += 1
        square = (prompt_tokens * prompt_tokens - cached_tokens * cached_tokens) / 2
        self._stratum(tokens, prompt_tokens).append(_Sample(self._count, tokens, square, seconds))
        self._stale = True

    def model(self) -> PrefillModel | None:
        """Return the model, None before the first sample. Cheap unless samples came since the last call."""
        if self._stale and (self._count <= 2 * MIN_SAMPLES or self._count - self._fitted_at >= MIN_SAMPLES // 2):
            samples = [sample for stratum in self._strata.values() for sample in stratum]
            self._model = _fit(samples, self._count)
            self.quality = _quality(self._model, samples)
            self._stale = False
            self._fitted_at = self._count
        return self._model

    def _stratum(self, tokens: int, prompt_tokens: int) -> deque[_Sample]:
        name = (tokens.bit_length(), prompt_tokens.bit_length())
        # Taken out and put back in, so that the first of the dictionary is the one that waited longest.
        stratum = self._strata.pop(name, None) or deque(maxlen=SAMPLES_A_STRATUM)
        self._strata[name] = stratum
        if len(self._strata) > MAX_STRATA:
            del self._strata[next(iter(self._strata))]
        return stratum


def _fit(samples: Sequence[_Sample], now: int) -> PrefillModel:
    """Return the model of ``samples``; ``now`` is the number of the last one."""
    tokens = np.array([sample.tokens for sample in samples], dtype=float)
    seconds = np.array([sample.seconds for sample in samples])
    features = np.column_stack((np.ones(len(samples)), tokens, np.array([sample.square for sample in samples])))
    weights = 0.5 ** ((now - np.array([sample.number for sample in samples])) / HALF_LIFE_SAMPLES)
    rate = _weighted_median(seconds / tokens, weights)
    found = [np.array([0.0, rate, 0.0])]
    if len(samples) >= MIN_SAMPLES:
        fitted = (
            _least_absolute(features, columns, seconds, weights, rate)
            for columns in COMBINATIONS
            if _are_distinct(features, columns)
        )
        found += [parts for parts in fitted if parts is not None]
    best = _best(found, features, seconds, weights)
    return PrefillModel(*(float(part) for part in best))


def _quality(model: PrefillModel, samples: Sequence[_Sample]) -> PrefillQuality:
    tokens = np.array([sample.tokens for sample in samples], dtype=float)
    seconds = np.array([sample.seconds for sample in samples])
    squares = np.array([sample.square for sample in samples])
    expected = model.fixed_s + model.s_per_token * tokens + model.s_per_square_token * squares
    return PrefillQuality(len(samples), float(np.median(np.abs(expected - seconds) / seconds)), int(tokens.max()))


def _best(found: Sequence[Floats], features: Floats, seconds: Floats, weights: Floats) -> Floats:
    """Return the parts with the least Bayesian information criterion (Schwarz 1978) for Laplace's distribution.

    An error counts up to a few times the median error: what lies further off says nothing about any of them.
    """
    errors = [_relative_errors(features @ parts, seconds) for parts in found]
    limit = FAR * max(NEGLIGIBLE, min(_weighted_median(error, weights) for error in errors))
    count = float(weights.sum())

    def criterion(index: int) -> float:
        mean = float(np.average(np.minimum(errors[index], limit), weights=weights))
        return count * math.log(mean + NEGLIGIBLE) + np.count_nonzero(found[index]) * math.log(count)

    return found[min(range(len(found)), key=criterion)]


def _are_distinct(features: Floats, columns: tuple[int, ...]) -> bool:
    """Whether the samples differ enough in each further part's share of the linear one."""
    further = [column for column in columns if column != 1]
    ratios = [features[:, column] / features[:, 1] for column in further]
    return all(np.quantile(ratio, 0.9) >= MIN_SPREAD * np.quantile(ratio, 0.1) for ratio in ratios)


def _least_absolute(
    features: Floats, columns: tuple[int, ...], seconds: Floats, weights: Floats, rate: float
) -> Floats | None:
    """Return the parts in ``columns`` that minimize the relative absolute errors, None if one is negative."""
    used = features[:, columns]
    expected = np.maximum(features[:, 1] * rate, 1e-9)
    parts: Floats = np.zeros(3)
    for _ in range(ROUNDS):
        far = np.maximum(np.abs(seconds - expected) / expected, 1e-4)
        scale = np.sqrt(weights / far) / expected
        solution = np.linalg.lstsq(used * scale[:, None], seconds * scale, rcond=None)[0]
        following = used @ solution
        if not np.all(np.isfinite(following)):
            return None
        # Near zero or below, an expectation would weigh its sample without bound.
        following = np.maximum(following, 0.1 * features[:, 1] * rate)
        settled = bool(np.allclose(following, expected, rtol=1e-4, atol=0))
        expected = following
        parts = np.zeros(3)
        parts[list(columns)] = solution
        if settled:
            break
    return parts if parts[1] > 0 and parts.min() >= 0 else None


def _relative_errors(expected: Floats, seconds: Floats) -> Floats:
    errors: Floats = np.abs(seconds - expected) / np.maximum(expected, 1e-9)
    return errors


def _weighted_median(values: Floats, weights: Floats) -> float:
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2)])
