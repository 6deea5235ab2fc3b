"""Shapes of base models: the linears that the headers of their weights name, and those that no adapter may change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.peft_adapters import BASE, BASE_CONFIG

from aloraserve.adapters import BaseShape
from aloraserve.errors import SettingsError

LAYER = "model.layers.0"
USUAL = {
    f"{name}.weight": np.ones((outputs, inputs), np.float16) for name, (inputs, outputs) in BASE.modules.items()
} | {"model.embed_tokens.weight": np.ones((100, 8), np.float16), "model.norm.weight": np.ones(8, np.float16)}


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(BASE_CONFIG))
    return tmp_path


def ones(*shape: int, dtype: Any = np.float16) -> Any:
    return np.ones(shape, dtype)


def test_a_usual_decoder_has_the_shape_that_its_config_says(model_path: Path) -> None:
    save_file(USUAL, model_path / "model.safetensors")
    assert BaseShape.read(model_path) == BASE
    assert BASE.linears()["down_proj"] == (12, 8)


def test_a_fingerprint_is_of_what_adapters_have_to_fit(model_path: Path) -> None:
    save_file({name: 2 * tensor for name, tensor in USUAL.items()}, model_path / "model.safetensors")
    assert BaseShape.read(model_path).fingerprint == BASE.fingerprint
    others = [BASE_CONFIG | {"vocab_size": 101}, BASE_CONFIG | {"intermediate_size": 13}]
    assert len({BaseShape.from_config(config).fingerprint for config in (BASE_CONFIG, *others)}) == 3


def test_a_model_without_safetensors_has_the_shape_that_its_config_says(model_path: Path) -> None:
    assert BaseShape.read(model_path) == BASE


def test_other_linears_go_by_their_own_names(model_path: Path) -> None:
    tensors = {
        f"{LAYER}.self_attn.qkv_proj.weight": ones(16, 8),
        f"{LAYER}.mlp.gate_up_proj.weight": ones(24, 8),
        f"{LAYER}.mamba.in_proj.weight": ones(20, 8),
        f"{LAYER}.mamba.conv1d.weight": ones(16, 1, 4),
        f"{LAYER}.input_layernorm.weight": ones(8),
        f"{LAYER}.shared_mlp.input_linear.weight": ones(24, 8),
    }
    save_file(tensors, model_path / "model.safetensors")
    shape = BaseShape.read(model_path)
    assert shape.linears() == {
        "qkv_proj": (8, 16),
        "gate_up_proj": (8, 24),
        "in_proj": (8, 20),
        "input_linear": (8, 24),
    }
    assert f"{LAYER}.mamba.conv1d" in shape.others


@pytest.mark.parametrize(
    "name",
    [
        f"{LAYER}.mlp.experts.3.up_proj",
        f"{LAYER}.block_sparse_moe.router.layer",
        f"{LAYER}.mlp.gate",
        f"{LAYER}.self_attn.kv_b_proj",
        "model.layers.2.self_attn.q_proj",
        "mtp.layers.0.self_attn.q_proj",
        "vision_tower.encoder.layers.0.self_attn.q_proj",
        "model.visual.blocks.0.attn.qkv",
        "multi_modal_projector.layers.0.linear",
        "model.embed_tokens",
        "lm_head",
    ],
)
def test_what_engines_do_not_adapt_is_no_linear_but_known(model_path: Path, name: str) -> None:
    save_file({**USUAL, f"{name}.weight": ones(8, 8)}, model_path / "model.safetensors")
    shape = BaseShape.read(model_path)
    assert shape.modules == BASE.modules
    assert name in shape.others


def test_quantized_weights_say_no_sizes_so_the_config_does(model_path: Path) -> None:
    packed = {name.replace("weight", "qweight"): ones(2, 2, dtype=np.int32) for name in USUAL if "proj" in name}
    save_file({**packed, f"{LAYER}.extra.weight": ones(3, 8)}, model_path / "model.safetensors")
    assert BaseShape.read(model_path).modules == {**BASE.modules, f"{LAYER}.extra": (8, 3)}


def test_only_the_files_of_the_index_count(model_path: Path) -> None:
    names = sorted(USUAL)
    for shard, part in (("a", names[:5]), ("b", names[5:])):
        save_file({name: USUAL[name] for name in part}, model_path / f"{shard}.safetensors")
    save_file({"layers.0.attention.wq.weight": ones(8, 8)}, model_path / "consolidated.safetensors")
    weight_map = {name: "a.safetensors" if name in names[:5] else "b.safetensors" for name in names}
    (model_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert BaseShape.read(model_path) == BASE


@pytest.mark.parametrize("content", [b"", b"\x00", b"\xff" * 16, b"\x02\0\0\0\0\0\0\0[]", b"\x02\0\0\0\0\0\0\0{{"])
def test_weights_without_a_header_are_a_wrong_setting(model_path: Path, content: bytes) -> None:
    (model_path / "model.safetensors").write_bytes(content)
    with pytest.raises(SettingsError, match=r"model\.safetensors"):
        BaseShape.read(model_path)


def test_sizes_of_the_text_model_are_those_that_count(model_path: Path) -> None:
    (model_path / "config.json").write_text(json.dumps({"text_config": BASE_CONFIG, "vocab_size": 5}))
    assert BaseShape.read(model_path) == BASE


def test_a_config_that_counts_its_layers_otherwise_leaves_that_to_the_weights(model_path: Path) -> None:
    (model_path / "config.json").write_text(json.dumps({"n_layer": 2, "vocab_size": 100}))
    save_file(
        {f"transformer.h.{layer}.attn.c_attn.weight": ones(10, 8) for layer in (0, 1)}, model_path / "model.safetensors"
    )
    shape = BaseShape.read(model_path)
    assert (shape.layers, shape.linears()) == (2, {"c_attn": (8, 10)})
