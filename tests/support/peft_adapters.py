"""Adapters written with safetensors, for a base model of a few numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from aloraserve.adapters import AdapterReader, AdapterVersion, BaseShape

BASE_CONFIG = {
    "num_hidden_layers": 2,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "vocab_size": 100,
}
"""The base model's ``config.json``."""
BASE = BaseShape.from_config(BASE_CONFIG)
TARGETS = ("q_proj", "down_proj")


def matrices(rank: int, targets: tuple[str, ...], weight: float = 1.0) -> dict[str, Any]:
    """Return the tensors of an adapter that changes the second layer."""
    found = {}
    for linear in targets:
        inputs, outputs = BASE.linears()[linear]
        block = "self_attn" if linear[0] in "qkvo" else "mlp"
        key = f"base_model.model.model.layers.1.{block}.{linear}"
        found[f"{key}.lora_A.weight"] = np.full((rank, inputs), weight, np.float32)
        found[f"{key}.lora_B.weight"] = np.ones((outputs, rank), np.float16)
    return found


def write_peft_adapter(
    folder: Path,
    *,
    weight: float = 1.0,
    rank: int = 4,
    targets: tuple[str, ...] = TARGETS,
    tensors: dict[str, Any] | None = None,
    **config: Any,
) -> Path:
    """Write an adapter, over the one that is there.

    Args:
        folder: made if need be.
        weight: each number of its A matrices, so that contents differ.
        rank: of its matrices.
        targets: linears that it changes.
        tensors: besides its own.
        config: entries over the usual ones.
    """
    folder.mkdir(exist_ok=True)
    layers = {"layers_to_transform": [1]}
    whole = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "target_modules": list(targets), **layers, **config}
    (folder / "adapter_config.json").write_text(json.dumps(whole))
    save_file(matrices(rank, targets, weight) | (tensors or {}), folder / "adapter_model.safetensors")
    return folder


def read_adapter(folder: Path, *, base: BaseShape, max_rank: int) -> AdapterVersion:
    """Return the adapter in ``folder``, which gives it its name; see :meth:`AdapterReader.read`."""
    return AdapterReader(base=base, max_rank=max_rank).read(folder.name, folder)
