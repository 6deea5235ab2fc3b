"""Figures as people read them: shares in percent, the rest in decimals, each with its interval."""

from __future__ import annotations

import math

from aloraserve.training.bootstrap import Estimate
from aloraserve.training.scoring import BRIER, ECE, ERROR, F1, MACRO_F1, MAE, ROUGE_L, SAID_MAE, TOKEN_F1

TITLES = {
    ERROR: "error",
    MAE: "mean absolute error",
    SAID_MAE: "that of the probability",
    MACRO_F1: "macro F1",
    F1: "F1 of the first label",
    BRIER: "Brier score",
    ECE: "calibration error",
    ROUGE_L: "ROUGE-L",
    TOKEN_F1: "token F1",
}
_PERCENT = frozenset((ERROR,))
NO_FIGURE = "-"


def number(figure: str, value: float, *, signed: bool = False) -> str:
    """Return a figure's value in its unit.

    Args:
        figure: its name.
        value: of it; NaN for none.
        signed: whether a plus is shown, as differences need.
    """
    if math.isnan(value):
        return NO_FIGURE
    sign = "+" if signed and value > 0 else ""
    return f"{sign}{100 * value:.1f} %" if figure in _PERCENT else f"{sign}{value:.3f}"


def with_interval(figure: str, found: Estimate | None, *, signed: bool = False) -> str:
    """Return a figure with its interval; a dash for none."""
    if found is None or math.isnan(found.value):
        return NO_FIGURE
    middle, low, high = (number(figure, value, signed=signed) for value in (found.value, found.low, found.high))
    return f"{middle} ({low.removesuffix(' %')} to {high})"
