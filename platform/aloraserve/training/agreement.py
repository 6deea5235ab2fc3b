"""Agreement of the platform with PEFT: every item, and how near it was where they differ.

Greedy decoding follows the likeliest token. Two exact implementations part where two tokens are equally likely up to
their rounding, and only there. So each difference comes with the margin by which PEFT's token won.
"""

from __future__ import annotations

from collections.abc import Sequence

from aloraserve.training.results import Agreement, ArmResult, Disagreement, ItemResult

TOLERANCES = {"float32": 1e-3, "bfloat16": 0.25}
"""Margins up to which a difference is a near tie, in nats. The platform's log-probabilities are within 1e-4 of PEFT's
in float32; in bfloat16 logits of 16 to 32 are multiples of 0.125, and two of them may be rounded apart."""


def agreement(peft: ArmResult, served: ArmResult, dtype: str) -> Agreement:
    """Return how two arms with the same items agree.

    Args:
        peft: through PEFT.
        served: through the platform.
        dtype: in which the platform and PEFT compute; the coarser of both.
    """
    tolerance = TOLERANCES[dtype]
    pairs = list(zip(peft.items, served.items, strict=True))
    differing = [_difference(mine, theirs, tolerance) for mine, theirs in pairs if not _is_equal(mine, theirs)]
    gaps = [
        abs(mine.probability - theirs.probability)
        for mine, theirs in pairs
        if mine.probability is not None and theirs.probability is not None and _is_equal(mine, theirs)
    ]
    return Agreement(
        arm=peft.name,
        items=len(pairs),
        differing=tuple(differing),
        tolerance=tolerance,
        probability_gap=max(gaps, default=None),
    )


def _is_equal(mine: ItemResult, theirs: ItemResult) -> bool:
    return not mine.error and not theirs.error and mine.text == theirs.text


def _difference(mine: ItemResult, theirs: ItemResult, tolerance: float) -> Disagreement:
    margin = None if theirs.text is None or mine.text is None else parting_margin(mine.margins, theirs.text)
    return Disagreement(
        file=mine.file,
        line=mine.line,
        peft=mine.text,
        served=theirs.text,
        margin=margin,
        is_near_tie=margin is not None and margin <= tolerance,
    )


def parting_margin(margins: Sequence[tuple[str, float]], other: str) -> float | None:
    """Return the margin of the token at which another text leaves this one; None if there is no such token.

    Args:
        margins: of the text's tokens, each with the token's text; the last may be one that ends it.
        other: text that differs from it.
    """
    begun = ""
    for token, margin in margins:
        begun += token
        if not other.startswith(begun):
            return margin
    return margins[-1][1] if margins else None
