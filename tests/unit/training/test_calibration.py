"""Calibration against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from aloraserve.training.bootstrap import estimate
from aloraserve.training.calibration import brier_score, calibration_error, reliability

OUTCOMES = [1, 0, 1, 1, 0]
SAID = [0.95, 0.95, 1.0, 0.35, 0.0]


def test_bins_hold_every_item_once_the_ends_included() -> None:
    bins = reliability(OUTCOMES, SAID)
    assert [one.items for one in bins] == [1, 0, 0, 1, 0, 0, 0, 0, 0, 3]
    assert bins[9].said == pytest.approx(2.9 / 3)
    assert bins[9].observed == pytest.approx(2 / 3)
    assert (bins[1].low, bins[1].high, bins[1].said, bins[1].observed) == (0.1, 0.2, pytest.approx(0.15), 0)


def test_calibration_error_weighs_bins_by_their_items() -> None:
    expected = 3 / 5 * abs(2.9 / 3 - 2 / 3) + 1 / 5 * abs(0.35 - 1) + 1 / 5 * 0
    assert calibration_error(OUTCOMES, SAID).value == pytest.approx(expected)


def test_brier_score_is_the_mean_square() -> None:
    assert brier_score(OUTCOMES, SAID).value == pytest.approx((0.05**2 + 0.95**2 + 0 + 0.65**2 + 0) / 5)
    assert brier_score([1, 0], [0.5, 0.5]).value == 0.25


def test_who_says_what_happens_is_calibrated() -> None:
    generator = np.random.default_rng(3)
    said = generator.random(20_000)
    happened = list((generator.random(20_000) < said).astype(float))
    found = estimate(calibration_error(happened, list(said)), resamples=200)
    assert found.value < 0.015
    assert calibration_error(happened, list(1 - said)).value > 0.4


@pytest.mark.parametrize(
    ("outcomes", "said", "message"),
    [
        ([1], [0.5, 0.5], "2 probabilities are compared with 1 outcomes"),
        ([1], [1.5], r"probability is 1.5; numbers from 0 to 1"),
        ([2], [0.5], r"outcome is 2.0"),
        ([1], [float("nan")], "probability is nan"),
    ],
)
def test_what_is_no_probability_is_refused(outcomes: list[float], said: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calibration_error(outcomes, said)
