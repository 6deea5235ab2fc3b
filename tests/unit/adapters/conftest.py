"""Adapters written with safetensors, for a base model of a few numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from aloraserve.adapters import BaseShape

BASE = BaseShape(layers=2, hidden_size=8, intermediate_size=12, heads=2, kv_heads=1, head_dim=4, vocab_size=100)
WriteAdapter = Callable[..., Path]


def matrices(rank: int, targets: tuple[str, ...]) -> dict[str, Any]:
    found = {}
    for linear in targets:
        inputs, outputs = BASE.linears()[linear]
        block = "self_attn" if linear[0] in "qkvo" else "mlp"
        key = f"base_model.model.model.layers.1.{block}.{linear}"
        found[f"{key}.lora_A.weight"] = np.ones((rank, inputs), np.float32)
        found[f"{key}.lora_B.weight"] = np.ones((outputs, rank), np.float16)
    return found


@pytest.fixture
def base() -> BaseShape:
    return BASE


@pytest.fixture
def write_adapter(tmp_path: Path) -> WriteAdapter:
    """Write an adapter under ``tmp_path``; ``config`` overrides entries, ``tensors`` adds some."""

    def write(name: str = "safety", *, tensors: dict[str, Any] | None = None, **config: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        whole = {
            "peft_type": "LORA",
            "r": 4,
            "lora_alpha": 8,
            "target_modules": ["q_proj", "down_proj"],
            **config,
        }
        (folder / "adapter_config.json").write_text(json.dumps(whole))
        save_file(matrices(4, ("q_proj", "down_proj")) | (tensors or {}), folder / "adapter_model.safetensors")
        return folder

    return write
