"""Training and evaluation of intrinsics, as far as it needs no model: specs, rows, splits, leakage, metrics, results.

Examples in tokens, and all that needs PyTorch, are in ``aloraserve_services.training``.
"""

from aloraserve.training.problems import ProblemList, TrainingProblem
from aloraserve.training.rows import TrainingRow, read_rows
from aloraserve.training.spec import TrainingSpec

__all__ = ["ProblemList", "TrainingProblem", "TrainingRow", "TrainingSpec", "read_rows"]
