"""Fits a :class:`~aloraserve.engine_model.step_model.StepModel` to steps.

- Robust: it minimizes the sum of absolute relative errors (least absolute deviations, by iteratively reweighted least
  squares: Holland and Welsch, "Robust regression using iteratively reweighted least-squares", 1977). Like a median,
  that ignores the size of what lies far off.
- Simple: a part is taken in only if the steps differ in it, and kept only if it is ``SURE`` standard errors from zero.
  Parts are considered in the order of ``PREFERRED``: what several could explain is the first one's.
- No part is negative: one that would be is left out; in place of the first, without which an engine would have no rate,
  those that took its share.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from aloraserve.engine_model.step_model import PARTS, StepModel
from aloraserve.engine_model.step_stats import StepStats

Floats = npt.NDArray[np.float64]
PREFERRED = tuple(
    PARTS.index(name)
    for name in (
        "s_per_token",
        "fixed_s",
        "answers_fixed_s",
        "prefill_fixed_s",
        "s_per_square",
        "s_per_context_token",
        "s_per_answer",
        "adapter_fixed_s",
        "s_per_adapter_token",
        "s_per_adapter_answer",
    )
)
LONG_ADAPTER_TOKENS = 256
"""Tokens of an adapter in one step from which on what each takes can be known. An aLoRA's own few say more of what a
step with an adapter takes, and would speak for thousands of tokens of a plain LoRA."""
LONG_PROMPT_TOKENS = 1024
"""How far into a prompt a step has to reach for attention's part to be known. In shorter prompts that part is less than
the noise of a machine that does something else too, and would be wrong by the square of its error in a long one."""
DISTINCT = 1e-3
"""The least share of a part's squares that the parts before it leave unexplained."""
SURE = 3.0
NEGLIGIBLE = 0.002
"""Relative error that is not better than none: clocks and prompts differ by more."""
ROUNDS = 12
LEAST_SHARE = 0.1
"""Of a step's time is expected at least; near zero or below, an expectation would weigh its step without bound."""
MAD_TO_DEVIATION = 1.4826


def fit(steps: Sequence[StepStats], weights: Floats) -> StepModel:
    """Return the model of at least one step.

    Args:
        steps: each with a time above 0 and something computed.
        weights: how much each counts, above 0.
    """
    seconds = np.array([step.seconds for step in steps])
    features = _features(steps)
    # A relative error in a column of ones: steps of a millisecond and of a second count alike.
    relative = features / seconds[:, None]
    scale = np.sqrt(np.average(relative * relative, axis=0, weights=weights))
    scale[scale == 0] = 1.0
    relative /= scale
    columns, parts = _select(relative, weights, _unknowable(steps))
    found = np.zeros(len(PARTS))
    found[columns] = parts
    return StepModel(*(float(part) for part in found / scale))


def _unknowable(steps: Sequence[StepStats]) -> set[int]:
    """Return the parts of which these steps are too short to say anything."""
    unknowable = set()
    if max(step.adapter_tokens for step in steps) < LONG_ADAPTER_TOKENS:
        unknowable.add(_ADAPTER_TOKEN)
    if max(step.prefill_reach for step in steps) < LONG_PROMPT_TOKENS:
        unknowable.add(_SQUARE)
    return unknowable


def _features(steps: Sequence[StepStats]) -> Floats:
    """Return a row per step with a column for each of the model's parts."""
    return np.array(
        [(1.0, step.prefill_tokens > 0, step.answers > 0, step.adapter_tokens > 0, *step.content) for step in steps],
        dtype=np.float64,
    )


def _select(rows: Floats, weights: Floats, banned: set[int]) -> tuple[list[int], Floats]:
    """Return the columns that count and their parts: those that make each row's sum as near to 1 as can be."""
    while True:
        # One that is left out makes room for those that say the same otherwise.
        columns = _distinct(rows, weights, banned)
        used = rows[:, columns]
        parts = _least_absolute(used, weights)
        weakest = _weakest(used, weights, parts)
        if weakest is None or len(columns) == 1:
            return columns, np.maximum(parts, 0.0)
        banned.add(columns[weakest])


def _distinct(rows: Floats, weights: Floats, banned: set[int]) -> list[int]:
    """Return the columns in which rows differ otherwise than in those before (Gram and Schmidt's elimination)."""
    gram = (rows * weights[:, None]).T @ rows / weights.sum()
    left, columns = gram.copy(), []
    for column in PREFERRED:
        if column not in banned and gram[column, column] > 0 and left[column, column] > DISTINCT * gram[column, column]:
            columns.append(column)
            left -= np.outer(left[:, column], left[column]) / left[column, column]
    return columns


def _least_absolute(rows: Floats, weights: Floats) -> Floats:
    expected = np.ones(len(rows))
    # The first round is plain least squares.
    each = weights
    parts: Floats = np.zeros(rows.shape[1])
    for _ in range(ROUNDS):
        weighted = rows * each[:, None]
        parts = np.linalg.solve(weighted.T @ rows + _RIDGE * np.eye(rows.shape[1]) * each.sum(), weighted.sum(axis=0))
        following = np.maximum(rows @ parts, LEAST_SHARE)
        if np.allclose(following, expected, rtol=1e-4, atol=0):
            break
        expected = following
        each = weights / (np.maximum(np.abs(1.0 - expected) / expected, _NEAREST) * expected * expected)
    return parts


_ADAPTER_TOKEN = PARTS.index("s_per_adapter_token")
_SQUARE = PARTS.index("s_per_square")
_RIDGE = 1e-9
_NEAREST = 1e-3


def _weakest(rows: Floats, weights: Floats, parts: Floats) -> int | None:
    """Return which part to leave out first: the most negative one, else the least sure one, None if all are sure.

    Never the first one, which is what the engine does at all: while that is not positive, another one goes.
    """
    expected = np.maximum(rows @ parts, LEAST_SHARE)
    errors = np.abs(1.0 - expected) / expected
    deviation = MAD_TO_DEVIATION * max(_weighted_median(errors, weights), NEGLIGIBLE)
    scaled = rows / expected[:, None]
    information = (scaled * weights[:, None]).T @ scaled + _RIDGE * np.eye(len(parts))
    standard_errors = deviation * np.sqrt(np.maximum(np.diag(np.linalg.inv(information)), 0.0))
    sureness = parts / np.maximum(standard_errors, 1e-12)
    rest = sureness[1:]
    if not len(rest) or (rest.min() >= SURE and parts[0] > 0):
        return None
    return int(rest.argmin()) + 1


def _weighted_median(values: Floats, weights: Floats) -> float:
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2)])
