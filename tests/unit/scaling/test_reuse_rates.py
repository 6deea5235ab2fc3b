from __future__ import annotations

import pytest

from aloraserve.scaling.reuse_rates import ReuseRates


def test_a_steady_saving_is_its_own_rate_and_an_old_one_fades() -> None:
    now = [0.0]
    rates = ReuseRates(lambda: now[0], lately_s=100.0)
    for _ in range(1000):
        now[0] += 1.0
        rates.add(0.5, 0.2)
    assert rates.rate() == pytest.approx((0.5, 0.2), rel=0.01)
    now[0] += 1000.0
    assert rates.rate() == pytest.approx((0.0, 0.0), abs=1e-3)


def test_no_more_is_saved_elsewhere_than_here() -> None:
    rates = ReuseRates(lambda: 0.0)
    rates.add(1.0, 5.0)
    assert rates.rate().saved_s == rates.rate().saved_elsewhere_s > 0
