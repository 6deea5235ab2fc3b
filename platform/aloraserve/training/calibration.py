"""Calibration of probabilities: reliability, expected calibration error, Brier score.

Guo et al. 2017 (arXiv 1706.04599), section 2; Brier 1950.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aloraserve.training.bootstrap import Floats, Measure

BINS = 10


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """The items whose probability lies in an interval: what was said of them, and what came true.

    Args:
        low: begin of the interval.
        high: its end, which belongs to it in the last bin alone.
        items: in it.
        said: mean of their probabilities; of a bin without items its middle.
        observed: share of them that came true; of a bin without items 0.
    """

    low: float
    high: float
    items: int
    said: float
    observed: float


def reliability(outcomes: Sequence[float], probabilities: Sequence[float], bins: int = BINS) -> list[ReliabilityBin]:
    """Return equally wide bins of probabilities from 0 to 1.

    Args:
        outcomes: 1 for what came true, 0 for what did not; a share where that is known.
        probabilities: that were said of them.
        bins: how many.

    Raises:
        ValueError: there are not as many outcomes as probabilities, or one is not within 0 to 1.
    """
    happened, said = _checked(outcomes, probabilities)
    places = _places(said, bins)
    found = []
    for place in range(bins):
        inside = places == place
        items, low, high = int(inside.sum()), place / bins, (place + 1) / bins
        means = (float(said[inside].mean()), float(happened[inside].mean())) if items else ((low + high) / 2, 0.0)
        found.append(ReliabilityBin(low, high, items, *means))
    return found


def calibration_error(outcomes: Sequence[float], probabilities: Sequence[float], bins: int = BINS) -> Measure:
    """Return the expected calibration error: the bins' |said - observed|, weighted by their items.

    With few items per bin it is biased upwards, and so is its interval.

    Raises:
        ValueError: as :func:`reliability`.
    """
    happened, said = _checked(outcomes, probabilities)
    features = np.zeros((len(said), bins))
    features[np.arange(len(said)), _places(said, bins)] = said - happened
    return Measure(features, _absolute_sum)


def brier_score(outcomes: Sequence[float], probabilities: Sequence[float]) -> Measure:
    """Return the mean square of what probabilities miss outcomes by; 0.25 for who always says 0.5 of yes or no.

    Raises:
        ValueError: as :func:`reliability`.
    """
    happened, said = _checked(outcomes, probabilities)
    return Measure(((said - happened) ** 2)[:, None], _absolute_sum)


def _absolute_sum(means: Floats) -> Floats:
    total: Floats = np.abs(means).sum(axis=1)
    return total


def _places(said: Floats, bins: int) -> Floats:
    return np.minimum((said * bins).astype(np.int64), bins - 1)


def _checked(outcomes: Sequence[float], probabilities: Sequence[float]) -> tuple[Floats, Floats]:
    happened, said = np.asarray(outcomes, dtype=np.float64), np.asarray(probabilities, dtype=np.float64)
    if len(happened) != len(said):
        raise ValueError(f"{len(said)} probabilities are compared with {len(happened)} outcomes; as many are needed")
    for name, values in (("outcome", happened), ("probability", said)):
        wrong = values[~((values >= 0) & (values <= 1))]
        if len(wrong):
            raise ValueError(f"{name} is {float(wrong[0])!r}; numbers from 0 to 1 are accepted")
    return happened, said
