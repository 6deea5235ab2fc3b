"""Intervals by the percentile bootstrap, also for differences and ratios of figures over the same items.

Every figure here is a function of means over items. So resampling costs one matrix product for all of its samples, and
two figures of the same items are compared on the same draws, which is what makes a difference of theirs sharp.
Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RESAMPLES = 2000
CONFIDENCE = 0.95
_DRAWN_AT_ONCE = 1 << 21
"""Item counts in memory at a time: 16 MiB."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure that is a function of means over items.

    Args:
        features: of each item, shape (items, features).
        of_means: the figure of the features' means: (samples, features) to (samples,). NaN where it has no value.

    Raises:
        ValueError: there are no items.
    """

    features: Floats
    of_means: Callable[[Floats], Floats]

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or not len(self.features):
            raise ValueError("a figure is to be made of no items; at least one is needed")

    @property
    def items(self) -> int:
        """The number of items that it is made of."""
        return len(self.features)

    @property
    def value(self) -> float:
        """The figure."""
        return float(self.of_means(self.features.mean(axis=0)[None])[0])


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with the ends of its 95 % interval.

    Args:
        value: the figure; NaN if it has none, such as a ratio to nothing.
        low: end of the interval; NaN likewise.
        high: likewise.
        items: that it is made of.
    """

    value: float
    low: float
    high: float
    items: int

    def is_above(self, other: Estimate) -> bool:
        """Return whether the whole interval lies above another."""
        return self.low > other.high

    def is_below(self, other: Estimate) -> bool:
        """Return whether the whole interval lies below another."""
        return self.high < other.low


def estimate(measure: Measure, *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Return a figure with its interval; equal for equal items and seeds.

    Args:
        measure: the figure.
        seed: of the draws.
        resamples: how many times the items are drawn, with replacement.
    """
    drawn = measure.of_means(_drawn_means(measure.features, seed, resamples))
    low, high = _ends(drawn)
    return Estimate(measure.value, low, high, measure.items)


def difference(measure: Measure, other: Measure, *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Return a figure less another one of the same items, in the same order, drawn together.

    Raises:
        ValueError: they are not of equally many items.
    """
    return estimate(_joined([measure, other], lambda values: values[0] - values[1]), seed=seed, resamples=resamples)


def gain_ratio(
    served: Measure, reference: Measure, base: Measure, *, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """Return (served - base) / (reference - base) of the same items: how much of a gain serving keeps.

    NaN where the reference gains nothing.

    Raises:
        ValueError: they are not of equally many items.
    """

    def ratio(values: Sequence[Floats]) -> Floats:
        gained, possible = values[0] - values[2], values[1] - values[2]
        return np.divide(gained, possible, out=np.full_like(gained, np.nan), where=np.abs(possible) > 1e-12)

    return estimate(_joined([served, reference, base], ratio), seed=seed, resamples=resamples)


def _joined(measures: Sequence[Measure], combined: Callable[[Sequence[Floats]], Floats]) -> Measure:
    items = {measure.items for measure in measures}
    if len(items) > 1:
        raise ValueError(f"figures of {', '.join(map(str, sorted(items)))} items are compared; they must be the same")
    ends = np.cumsum([measure.features.shape[1] for measure in measures])[:-1]

    def of_means(means: Floats) -> Floats:
        parts = np.split(means, ends, axis=1)
        return combined([measure.of_means(part) for measure, part in zip(measures, parts, strict=True)])

    return Measure(np.hstack([measure.features for measure in measures]), of_means)


def _drawn_means(features: Floats, seed: int, resamples: int) -> Floats:
    """Return the features' means over each resample, shape (resamples, features)."""
    generator, items = np.random.default_rng(seed), len(features)
    at_once = max(1, _DRAWN_AT_ONCE // items)
    found = []
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        picks = generator.integers(items, size=(rows, items)) + items * np.arange(rows)[:, None]
        counts = np.bincount(picks.ravel(), minlength=rows * items).reshape(rows, items)
        found.append(counts @ features / items)
    return np.concatenate(found)


def _ends(drawn: Floats) -> tuple[float, float]:
    known = drawn[~np.isnan(drawn)]
    if not len(known):
        return math.nan, math.nan
    edge = (1 - CONFIDENCE) / 2
    low, high = np.quantile(known, [edge, 1 - edge])
    return float(low), float(high)
