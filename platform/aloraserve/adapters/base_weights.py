"""The modules that a base model's weights name: read from the headers of its safetensors files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aloraserve.errors import SettingsError

MAX_HEADER_BYTES = 100_000_000
"""As in safetensors itself."""
_INDEX = "model.safetensors.index.json"
_FLOATS = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0"})
_IN_LAYER = re.compile(r"\.\d+\.")
_NOT_DECODER = re.compile(r"vision|visual|audio|speech|image|tower|projector|encoder|\bmtp\b")
_NOT_ADAPTED = re.compile(r"\bexperts\b|router|\bgate$|\bkv_b_proj$|embed|norm")
"""Routed experts, routers, a projection that attention absorbs, and what is not multiplied by a vector: engines load no
adapter for these, or drop it without a word."""


@dataclass(frozen=True, slots=True)
class BaseWeights:
    """Names in a model's weights.

    Args:
        linears: input and output size of the decoder layers' linears, by module.
        names: of all modules that have weights.
        is_quantized: whether weights are packed, so that their sizes say nothing.
    """

    linears: Mapping[str, tuple[int, int]]
    names: frozenset[str]
    is_quantized: bool


def read_base_weights(model_path: Path) -> BaseWeights | None:
    """Return what the headers of a model's weights say; None if it has no safetensors.

    Raises:
        SettingsError: a header cannot be read.
    """
    files = _files(model_path)
    if not files:
        return None
    tensors: dict[str, Any] = {}
    for path in files:
        tensors |= _header(path)
    linears = {name.removesuffix(".weight"): tensor for name, tensor in tensors.items() if _is_linear(name, tensor)}
    return BaseWeights(
        linears={name: (tensor["shape"][1], tensor["shape"][0]) for name, tensor in linears.items()},
        names=frozenset(name.rpartition(".")[0] for name in tensors),
        is_quantized=any(
            name.endswith((".qweight", ".weight_packed")) or _is_packed(name, tensors) for name in tensors
        ),
    )


def _files(model_path: Path) -> list[Path]:
    """Return the files that make up the model: those of the index, else the one that transformers writes, else all."""
    if (model_path / _INDEX).is_file():
        try:
            names = json.loads((model_path / _INDEX).read_bytes())["weight_map"].values()
            return [model_path / Path(name).name for name in sorted(set(names))]
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise SettingsError(f"the model's {_INDEX} cannot be read: {type(error).__name__}") from error
    whole = model_path / "model.safetensors"
    return [whole] if whole.is_file() else sorted(model_path.glob("*.safetensors"))


def _header(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > MAX_HEADER_BYTES:
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(file.read(length))
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"the model's {path.name} has no readable header: {error}") from error
    if not isinstance(header, dict):
        raise SettingsError(f"the model's {path.name} has no readable header")
    return {name: tensor for name, tensor in header.items() if name != "__metadata__" and isinstance(tensor, dict)}


def _is_linear(name: str, tensor: Mapping[str, Any]) -> bool:
    module, _, last = name.rpartition(".")
    return (
        last == "weight"
        and len(tensor.get("shape", ())) == 2
        and tensor.get("dtype") in _FLOATS
        and _IN_LAYER.search(module) is not None
        and _NOT_DECODER.search(module) is None
        and _NOT_ADAPTED.search(module) is None
    )


def _is_packed(name: str, tensors: Mapping[str, Any]) -> bool:
    return name.endswith(".weight") and tensors[name].get("dtype") in ("U8", "I8", "I32")
