"""An adapter as a GGUF LoRA, with the invocation that makes it an aLoRA."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aloraserve.adapters import AdapterVersion
from aloraserve.adapters.peft_files import CONFIG_FILE, WEIGHTS_FILE
from aloraserve_services.models.gguf_export.gguf_file import ExportedTensor, write_gguf
from aloraserve_services.models.gguf_export.llama_config import LlamaConfig, interleaved
from aloraserve_services.models.gguf_export.stored_type import StoredType

_PREFIX = "base_model.model."
_SIDES = {"A": "lora_a", "B": "lora_b"}


def write_adapter(path: Path, version: AdapterVersion, config: LlamaConfig, stored: StoredType) -> None:
    """Write the GGUF of an adapter.

    Args:
        path: of the GGUF.
        version: an adapter that was checked for the base model.
        config: of the base model.
        stored: type of its numbers.

    Raises:
        SettingsError: a number does not fit the type.
        OSError: the disk is full or cannot be written.
    """

    def fields(writer: Any) -> None:
        _add_fields(writer, version)

    write_gguf(path, fields, list(_tensors(version.path / WEIGHTS_FILE, config)), stored)


def _add_fields(writer: Any, version: AdapterVersion) -> None:
    """Add what llama.cpp reads of an adapter (``llama_adapter_lora_init_impl``)."""
    import gguf

    keys, kinds = gguf.Keys.Adapter, gguf.GGUFValueType
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_name(version.name)
    writer.add_string(keys.TYPE, "lora")
    writer.add_string(keys.LORA_TASK_NAME, version.name)
    writer.add_float32(keys.LORA_ALPHA, _alpha(version))
    if version.invocation_ids:
        ids = list(version.invocation_ids)
        writer.add_key_value(keys.ALORA_INVOCATION_TOKENS, ids, kinds.ARRAY, kinds.UINT32)


def _alpha(version: AdapterVersion) -> float:
    """Return the alpha with which llama.cpp, which divides it by the rank, scales as PEFT does."""
    config = json.loads((version.path / CONFIG_FILE).read_bytes())
    return version.alpha * math.sqrt(version.rank) if config.get("use_rslora") else version.alpha


def _tensors(weights: Path, config: LlamaConfig) -> Iterator[ExportedTensor]:
    """Yield both matrices of each linear, A first."""
    import gguf
    from safetensors import safe_open

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    with safe_open(weights, framework="pt") as file:
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in sorted(file.keys())}
    for key, shape in shapes.items():
        module, _, side = key.removeprefix(_PREFIX).removesuffix(".weight").rpartition(".lora_")
        heads = config.rotated_heads(module) if side == "B" else None
        name = f"{names.get_name(module)}.weight.{_SIDES[side]}"
        yield ExportedTensor(name, shape, functools.partial(_read, weights, key, heads))


def _read(weights: Path, key: str, heads: int | None) -> NDArray[np.float32]:
    from safetensors import safe_open

    with safe_open(weights, framework="pt") as file:
        numbers: NDArray[np.float32] = file.get_tensor(key).float().numpy()
    return numbers if heads is None else interleaved(numbers, heads)
