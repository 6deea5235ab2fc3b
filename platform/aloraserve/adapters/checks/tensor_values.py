"""The tensors' numbers: finite in every type that engines compute in, and not all zero. Read in pieces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np

from aloraserve.adapters.checks.header import ITEM_BYTES, TensorEntry
from aloraserve.adapters.checks.tensors import Matrix
from aloraserve.adapters.file_access import CHUNK_BYTES, changed
from aloraserve.adapters.peft_files import WEIGHTS_FILE
from aloraserve.adapters.problems import Problem, ProblemCode, shown

LARGEST = 65504.0
"""The largest finite float16: engines may compute in it."""
_BITS: dict[str, tuple[str, int, int]] = {
    "F32": ("<u4", 0x7FFFFFFF, 0x7F800000),
    "F16": ("<u2", 0x7FFF, 0x7C00),
    "BF16": ("<u2", 0x7FFF, 0x7F80),
}
"""Words of a type, the bits of a number without its sign, and the exponent's, which infinity and NaN have set."""


def value_problems(file: BinaryIO, matrices: Sequence[Matrix], scaling: float | None) -> Iterator[Problem]:
    """Yield the problems of the numbers in an open weights file.

    Args:
        file: the weights.
        matrices: the tensors that hit a linear, of an accepted type.
        scaling: the factor on the second matrix, if it is known.

    Raises:
        OSError: the file cannot be read, or became shorter.
    """
    acting: dict[str, int] = {}
    for matrix in matrices:
        largest = _largest(file, matrix.entry)
        factor = abs(scaling or 1.0) if matrix.side == "B" else 1.0
        if largest is None:
            yield _wrong(matrix, "NaN or infinity", "finite numbers")
        elif largest * max(factor, 1.0) > LARGEST:
            yield _wrong(
                matrix, f"numbers up to {largest * factor:g} when scaled", f"at most {LARGEST:g}, as in float16"
            )
        acting[matrix.module] = acting.get(matrix.module, 0) + (largest != 0)
    if acting and max(acting.values()) < 2:
        found = "changes nothing: in every pair of matrices one is all zero"
        yield Problem(ProblemCode.NO_EFFECT, WEIGHTS_FILE, found, "trained weights")


def _largest(file: BinaryIO, entry: TensorEntry) -> float | None:
    """Return the largest magnitude in a tensor; None if that is not finite."""
    words, magnitude, exponent = _BITS[entry.dtype]
    highest = 0
    for piece in _pieces(file, entry):
        # The bits of numbers without their sign are ordered like the numbers.
        highest = max(highest, int((np.frombuffer(piece, words) & magnitude).max()))
    return None if highest & exponent == exponent else _number(highest, entry.dtype)


def _pieces(file: BinaryIO, entry: TensorEntry) -> Iterator[bytes]:
    file.seek(entry.offset)
    left = entry.length
    while left:
        piece = file.read(min(left, CHUNK_BYTES))
        if len(piece) % ITEM_BYTES[entry.dtype] or not piece:
            raise changed()
        left -= len(piece)
        yield piece


def _number(bits: int, dtype: str) -> float:
    if dtype == "F16":
        return float(np.array([bits], np.uint16).view(np.float16)[0])
    return float(np.array([bits << 16 if dtype == "BF16" else bits], np.uint32).view(np.float32)[0])


def _wrong(matrix: Matrix, found: str, accepted: str) -> Problem:
    return Problem(ProblemCode.TENSOR_VALUES, WEIGHTS_FILE, f"has {found} in {shown(matrix.entry.name)}", accepted)
