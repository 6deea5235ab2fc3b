"""From timed prefills and decoding steps to a calibration's times: least squares without negative parts."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aloraserve.engine_model.calibration import DecodeTimes, PrefillTimes
from aloraserve.errors import SettingsError

_LEAST_S = 1e-9


@dataclass(frozen=True, slots=True)
class PrefillSample:
    """One timed prefill, alone in its engine.

    Args:
        start: prompt tokens that were cached.
        end: length of the prompt.
        seconds: until the first token.
        by_adapter: whether an adapter's weights were applied to the computed tokens.
    """

    start: int
    end: int
    seconds: float
    by_adapter: bool = False


@dataclass(frozen=True, slots=True)
class DecodeSample:
    """One timed decoding step.

    Args:
        sequences: answers that it added a token to.
        context_tokens: tokens of all their contexts together.
        seconds: how long it took.
    """

    sequences: int
    context_tokens: float
    seconds: float


def fit_prefill(samples: Sequence[PrefillSample], step_tokens: int) -> PrefillTimes:
    """Return the times that explain the samples best, by squared relative error.

    Args:
        samples: of several lengths, and some with cached prefixes.
        step_tokens: tokens per step at most: a long prompt takes several, and the fixed part of each.

    Raises:
        SettingsError: the samples do not determine the linear part.
    """
    features = [
        (
            float(-(-(sample.end - sample.start) // step_tokens)),
            float(sample.end - sample.start),
            (sample.end**2 - sample.start**2) / 2,
            float(sample.end - sample.start) if sample.by_adapter else 0.0,
        )
        for sample in samples
    ]
    fixed, linear, quadratic, adapter = fit_nonnegative(features, [sample.seconds for sample in samples], needed=(1,))
    return PrefillTimes(fixed_s=fixed, s_per_token=linear, s_per_square_token=quadratic, adapter_s_per_token=adapter)


def fit_decode(samples: Sequence[DecodeSample]) -> DecodeTimes:
    """Return the times that explain the samples best, by squared relative error.

    Raises:
        SettingsError: the samples do not determine the fixed part.
    """
    features = [(1.0, float(sample.sequences), sample.context_tokens) for sample in samples]
    fixed, sequence, context = fit_nonnegative(features, [sample.seconds for sample in samples], needed=(0,))
    return DecodeTimes(fixed_s=fixed, s_per_sequence=sequence, s_per_context_token=context)


def fit_nonnegative(
    features: Sequence[Sequence[float]], seconds: Sequence[float], *, needed: Sequence[int]
) -> list[float]:
    """Return the non-negative coefficients with the least sum of squared relative errors.

    There are few columns, so every subset is solved without constraints: the best solution without negative parts is
    the constrained one (Lawson and Hanson, "Solving least squares problems", 1974, chapter 23).

    Args:
        features: a row a sample.
        seconds: of each sample, above 0.
        needed: columns that must have a part above 0.

    Raises:
        SettingsError: no subset has such a solution.
    """
    times = np.maximum(np.asarray(seconds, dtype=np.float64), _LEAST_S)
    rows = np.asarray(features, dtype=np.float64) / times[:, None]
    columns = rows.shape[1]
    best: tuple[float, list[float]] | None = None
    for size in range(1, columns + 1):
        for subset in itertools.combinations(range(columns), size):
            if not set(needed) <= set(subset):
                continue
            part = rows[:, subset]
            solution, _, rank, _ = np.linalg.lstsq(part, np.ones(len(times)), rcond=None)
            if rank < size or np.any(solution < 0) or any(solution[subset.index(column)] <= 0 for column in needed):
                continue
            error = float(np.sum((part @ solution - 1) ** 2))
            if best is None or error < best[0]:
                found = [0.0] * columns
                for column, value in zip(subset, solution, strict=True):
                    found[column] = float(value)
                best = (error, found)
    if best is None:
        raise SettingsError(f"{len(times)} samples do not determine the times: longer and shorter ones are needed")
    return best[1]


def prefill_error(samples: Sequence[PrefillSample], times: PrefillTimes, step_tokens: int) -> float:
    """Return the median relative error of the times on the samples."""
    model = times.model
    errors = []
    for sample in samples:
        tokens = sample.end - sample.start
        steps = -(-tokens // step_tokens)
        expected = model.seconds(sample.start, sample.end) + (steps - 1) * times.fixed_s
        expected += tokens * times.adapter_s_per_token if sample.by_adapter else 0.0
        errors.append(abs(expected / max(sample.seconds, _LEAST_S) - 1))
    return float(statistics.median(errors))


def decode_error(samples: Sequence[DecodeSample], times: DecodeTimes) -> float:
    """Return the median relative error of the times on the samples."""
    return float(
        statistics.median(
            abs(
                (
                    times.fixed_s
                    + times.s_per_sequence * sample.sequences
                    + times.s_per_context_token * sample.context_tokens
                )
                / max(sample.seconds, _LEAST_S)
                - 1
            )
            for sample in samples
        )
    )
