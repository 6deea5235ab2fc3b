"""The tensors' names and sizes: each has to hit a linear of the base model, and none may be missing."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from aloraserve.adapters.checks.config import AdapterConfig
from aloraserve.adapters.checks.header import ITEM_BYTES, TensorEntry
from aloraserve.adapters.peft_files import WEIGHTS_FILE
from aloraserve.adapters.problems import Problem, ProblemCode, shown
from aloraserve.adapters.shape import BaseShape

_PREFIX = "base_model.model."
_KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
_LOOSE_KEY = re.compile(r"(?:base_model\.)?(?:model\.)?(.+?)\.lora_([AB])(?:\.\w+)*")


@dataclass(frozen=True, slots=True)
class Matrix:
    """A tensor that hits a linear.

    Args:
        module: the linear's full name.
        side: "A" or "B".
        entry: where its numbers are.
    """

    module: str
    side: str
    entry: TensorEntry


def find_matrices(entries: Sequence[TensorEntry], base: BaseShape) -> tuple[list[Matrix], list[Problem]]:
    """Return the tensors that hit a linear of the base model, and the problems of the others."""
    matrices: list[Matrix] = []
    problems: list[Problem] = []
    for entry in entries:
        match = _KEY.fullmatch(entry.name)
        if match is not None and match[1] in base.modules:
            matrices.append(Matrix(match[1], match[2], entry))
        else:
            found = f"has the tensor {shown(entry.name)}, which hits no linear of the base model"
            problems.append(_wrong(ProblemCode.TENSOR_NAME, found, _accepted_name(entry.name, base)))
    return matrices, problems


def matrix_problems(
    matrices: Sequence[Matrix], config: AdapterConfig, base: BaseShape, *, is_whole: bool
) -> Iterator[Problem]:
    """Yield what is wrong with the sizes, the pairs and the choice of tensors that hit a linear.

    Args:
        matrices: of the adapter.
        config: its facts.
        base: the base model's shape.
        is_whole: whether every tensor hits one. Where some do not, nobody knows which modules have no weights.
    """
    yield from _size_problems(matrices, config, base)
    sides: dict[str, str] = defaultdict(str)
    for matrix in matrices:
        sides[matrix.module] += matrix.side
    for module, found in sides.items():
        if len(found) == 1:
            other = "B" if found == "A" else "A"
            yield _wrong(ProblemCode.TENSOR_PAIR, f"has lora_{found} of {module} but no lora_{other}", "both")
    if config.modules is not None:
        yield from _surplus(sides, config.modules)
        yield from _missing(sides, config.modules) if is_whole else ()


def _size_problems(matrices: Sequence[Matrix], config: AdapterConfig, base: BaseShape) -> Iterator[Problem]:
    misfits = [matrix for matrix in matrices if not _fits_base(matrix, base) and 0 not in matrix.entry.shape]
    if len(misfits) > 1 and 2 * len(misfits) >= len(matrices):
        yield _other_base(misfits, len(matrices), config, base)
        return
    for matrix in matrices:
        entry, wanted = matrix.entry, _wanted(matrix, config.rank, base)
        shape = f"has {shown(entry.name)} of shape {list(entry.shape)}"
        if 0 in entry.shape:
            yield _wrong(ProblemCode.TENSOR_EMPTY, f"{shape}, saved without gathering its parts", str(wanted))
        elif not _fits_base(matrix, base) or config.rank not in (None, entry.shape[matrix.side == "B"]):
            yield _wrong(ProblemCode.TENSOR_SHAPE, shape, f"{wanted}, by the base model and the rank")
        if entry.dtype not in ITEM_BYTES:
            found = f"has {shown(entry.name)} of type {entry.dtype}"
            yield _wrong(ProblemCode.TENSOR_TYPE, found, ", ".join(ITEM_BYTES))


def _fits_base(matrix: Matrix, base: BaseShape) -> bool:
    inputs, outputs = base.modules[matrix.module]
    shape = matrix.entry.shape
    return len(shape) == 2 and (shape[1] == inputs if matrix.side == "A" else shape[0] == outputs)


def _wanted(matrix: Matrix, rank: int | None, base: BaseShape) -> list[int | str]:
    inputs, outputs = base.modules[matrix.module]
    return [rank or "r", inputs] if matrix.side == "A" else [outputs, rank or "r"]


def _other_base(misfits: Sequence[Matrix], total: int, config: AdapterConfig, base: BaseShape) -> Problem:
    first = misfits[0]
    named = f"; its config names {shown(config.base_model)}" if config.base_model else ""
    found = (
        f"is for another base model: {len(misfits)} of {total} tensors do not fit, the first is "
        f"{shown(first.entry.name)} of shape {list(first.entry.shape)}{named}"
    )
    return _wrong(ProblemCode.OTHER_BASE, found, f"{_wanted(first, config.rank, base)} there")


def _surplus(found: Collection[str], selection: Collection[str]) -> Iterator[Problem]:
    for module in found:
        if module not in selection:
            accepted = "weights of modules that target_modules and layers_to_transform select"
            yield _wrong(
                ProblemCode.NOT_SELECTED, f"has weights for {module}, which the config does not select", accepted
            )


def _missing(found: Collection[str], selection: Collection[str]) -> Iterator[Problem]:
    for module in sorted(set(selection) - set(found)):
        accepted = "weights for every module that the config selects; narrow target_modules or layers_to_transform"
        yield _wrong(ProblemCode.TENSOR_MISSING, f"has no weights for {module}, which the config selects", accepted)


def _accepted_name(name: str, base: BaseShape) -> str:
    """Return the name that a tensor should have, if that can be guessed: the same linear of the same layer."""
    match = _LOOSE_KEY.fullmatch(name)
    if match is not None:
        parts = match[1].split(".")
        layer, last = next((part for part in parts if part.isdecimal()), None), parts[-1]
        for module in base.modules:
            if layer in module.split(".") and module.endswith(f".{last}"):
                return f"{_PREFIX}{module}.lora_{match[2]}.weight"
        if layer is not None and last in base.linears():
            return f"layers 0 to {base.layers - 1}; this is layer {layer}"
    example = next(iter(base.modules))
    return f"{_PREFIX}<module>.lora_<A|B>.weight with a linear such as {example}"


def _wrong(code: ProblemCode, found: str, accepted: str) -> Problem:
    return Problem(code, WEIGHTS_FILE, found, accepted)
