"""Required content of ``adapter_model.safetensors``: LoRA matrices that fit the base model, all finite."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize

from aloraserve.adapters.shape import BaseShape
from aloraserve.errors import InvalidAdapterError

WEIGHTS_FILE = "adapter_model.safetensors"

_KEY = re.compile(
    r"base_model\.model\.(?:model\.)?layers\.(\d{1,5})\.(?:self_attn|mlp)\.(\w{1,64})\.lora_([AB])\.weight"
)
_EXPONENT = {"F32": ("<u4", 0x7F800000), "F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80)}

Matrix = tuple[int, str, str]
"""Layer, linear, "A" or "B"."""


def check_weights(data: bytes, *, base: BaseShape, rank: int, targets: Collection[str]) -> None:
    """Check the content of a safetensors file against the base model and the adapter's config.

    Args:
        data: the file.
        base: the base model's shape.
        rank: the config's ``r``.
        targets: the config's linears; each has to have weights in a layer at least.

    Raises:
        InvalidAdapterError: the file is malformed, or a tensor is unknown, missing, misshapen or not finite.
    """
    try:
        tensors = deserialize(data)  # type: ignore[no-untyped-call]
    except SafetensorError as exc:
        raise _wrong(f"is not a safetensors file: {exc}") from exc
    found: set[Matrix] = set()
    for key, tensor in tensors:
        matrix = _matrix(key, base, targets)
        found.add(matrix)
        _check_shape(key, tensor, _wanted_shape(matrix, base, rank))
        _check_finite(key, tensor)
    _check_complete(found, targets)


def _matrix(key: str, base: BaseShape, targets: Collection[str]) -> Matrix:
    match = _KEY.fullmatch(key)
    if match is None:
        wanted = "base_model.model.model.layers.<n>.<self_attn|mlp>.<linear>.lora_<A|B>.weight"
        raise _wrong(f"has the tensor {key[:120]!r}; {wanted} is accepted")
    layer, linear = int(match[1]), match[2]
    if layer >= base.layers:
        raise _wrong(f"has weights for layer {layer}; the base model has layers 0 to {base.layers - 1}")
    if linear not in targets:
        raise _wrong(f"has weights for {linear!r}; target_modules names {', '.join(sorted(targets))}")
    return layer, linear, match[3]


def _wanted_shape(matrix: Matrix, base: BaseShape, rank: int) -> list[int]:
    _, linear, side = matrix
    inputs, outputs = base.linears()[linear]
    return [rank, inputs] if side == "A" else [outputs, rank]


def _check_shape(key: str, tensor: dict[str, Any], wanted: list[int]) -> None:
    if list(tensor["shape"]) != wanted:
        raise _wrong(f"has {key} of shape {list(tensor['shape'])}; {wanted} fits the base model and the rank")
    if tensor["dtype"] not in _EXPONENT:
        raise _wrong(f"has {key} of type {tensor['dtype']}; {', '.join(_EXPONENT)} are accepted")


def _check_finite(key: str, tensor: dict[str, Any]) -> None:
    """Raise if a number has every exponent bit set, which is what NaN and the infinities have in common."""
    word, mask = _EXPONENT[tensor["dtype"]]
    bits = np.frombuffer(tensor["data"], dtype=word)
    if bool(((bits & mask) == mask).any()):
        raise _wrong(f"has NaN or infinity in {key}; finite numbers are accepted")


def _check_complete(found: set[Matrix], targets: Collection[str]) -> None:
    for layer, linear, side in sorted(found):
        other = "B" if side == "A" else "A"
        if (layer, linear, other) not in found:
            raise _wrong(f"has lora_{side} of {linear} in layer {layer} but no lora_{other}")
    for linear in sorted(targets):
        if not any(name == linear for _, name, _ in found):
            raise _wrong(f"has no weights for {linear!r}, which target_modules names")


def _wrong(what: str) -> InvalidAdapterError:
    return InvalidAdapterError(f"{WEIGHTS_FILE} {what}")
