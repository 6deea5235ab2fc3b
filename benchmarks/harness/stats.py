"""Statistics that reports use: percentiles, medians and 95 % intervals."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from aloraserve.simulation.summary import half_width

T = TypeVar("T")
RESAMPLES = 2000


async def timed(work: Callable[[], Awaitable[T]]) -> tuple[T, float]:
    """Return what some work came to, and the seconds that it took."""
    started = time.perf_counter()
    found = await work()
    return found, time.perf_counter() - started


def percentile(values: Iterable[float], share: float) -> float:
    """Return the value that ``share`` of at least one value lie below (0.9: the 90th percentile)."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def median_of(samples: Iterable[T], figure: Callable[[T], float]) -> float:
    """Return the median of a figure over at least one sample."""
    return float(statistics.median(figure(sample) for sample in samples))


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with the ends of its 95 % interval.

    Args:
        middle: the figure.
        low: end of the interval.
        high: likewise.
    """

    middle: float
    low: float
    high: float


def mean_ratio(ratios: Sequence[float]) -> Interval:
    """Return the geometric mean of at least two ratios; their logarithms are taken to be normal (Student's t)."""
    logs = [math.log(ratio) for ratio in ratios]
    mean, half = statistics.fmean(logs), half_width(logs)
    return Interval(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


def median_interval(values: Sequence[float]) -> Interval:
    """Return the median of at least one value with an interval from resampling, always the same for equal values.

    Of fewer than three values both ends are the median.
    """
    median = statistics.median(values)
    if len(values) < 3:
        return Interval(median, median, median)
    chooser = random.Random(0)  # noqa: S311
    medians = [statistics.median(chooser.choices(values, k=len(values))) for _ in range(RESAMPLES)]
    return Interval(median, percentile(medians, 0.025), sorted(medians)[int(0.975 * RESAMPLES) - 1])


def mean_interval(values: Sequence[float]) -> Interval:
    """Return the mean of at least one value with an interval from resampling, always the same for equal values.

    Of one value both ends are the mean.
    """
    chooser = random.Random(0)  # noqa: S311
    means = sorted(statistics.fmean(chooser.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return Interval(statistics.fmean(values), percentile(means, 0.025), means[int(0.975 * RESAMPLES) - 1])
