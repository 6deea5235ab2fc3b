"""Figures that others published, to stand beside ours. Other models, other data: not comparable as numbers.

Sources: arXiv 2504.12397 (Greenewald et al., Granite 3.2 8B Instruct), Fig. 3 and Fig. 4; IBM's table of the intrinsics
library for granite-4.1-3b.
"""

from __future__ import annotations

from dataclasses import dataclass

SOURCE = "arXiv 2504.12397 (Granite 3.2 8B)"
IBM_SOURCE = "IBM's intrinsics for granite-4.1-3b"


@dataclass(frozen=True, slots=True)
class PaperFigures:
    """A task's figures.

    Args:
        title: of the task, as the paper has it.
        lora: error of the LoRA; None where it is not given.
        alora: error of the aLoRA.
        single: error with an invocation of one token; None where it is not given.
        several: error with one of several tokens.
    """

    title: str
    lora: float | None = None
    alora: float | None = None
    single: float | None = None
    several: float | None = None


PAPER = {
    "uncertainty": PaperFigures("uncertainty quantification, MAE", 0.50, 0.49, 0.485, 0.405),
    "safety": PaperFigures("safety, error", 0.016, 0.0225, 0.0225, 0.0425),
    "hallucination": PaperFigures("hallucination, error", 0.21, 0.22),
}
"""By the task's name: digits as mean absolute error, choices as a share."""

IBM = {
    "answerability": ("answerability", 0.726, 0.847, 0.836),
    "safety": ("guardian", 0.667, 0.816, 0.815),
    "query-rewrite": ("query rewrite", 0.658, 0.824, 0.818),
}
"""By the task's name: IBM's, and its scores of the told base model, LoRA of rank 16 and aLoRA of rank 32."""
