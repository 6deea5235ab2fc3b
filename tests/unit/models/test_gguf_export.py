"""The GGUF files of a model and its adapters: their content, and what is refused before anything is written."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny_llama import change_json, write_tiny_llama

from aloraserve.adapters import AdapterReader, AdapterVersion, BaseShape
from aloraserve.errors import SettingsError
from aloraserve_services.models.gguf_export.export import export_gguf
from aloraserve_services.models.gguf_export.llama_config import interleaved
from aloraserve_services.models.gguf_export.stored_type import StoredType

RANK, ALPHA = 4, 8


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "model")


def adapter(model: Path, folder: Path, **config: Any) -> AdapterVersion:
    """Write an adapter with PEFT, and read it as the platform does."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    settings = {"r": RANK, "lora_alpha": ALPHA, "target_modules": ["q_proj", "k_proj", "down_proj"], **config}
    lora = LoraConfig(init_lora_weights=False, task_type="CAUSAL_LM", **settings)
    get_peft_model(AutoModelForCausalLM.from_pretrained(model), lora).save_pretrained(folder)
    return AdapterReader(base=BaseShape.read(model)).read(folder.name, folder)


def exported(folder: Path, model: Path, *versions: AdapterVersion, stored: StoredType = "f32") -> list[gguf.GGUFReader]:
    export_gguf(folder, ("base", model), versions, stored=stored)
    return [gguf.GGUFReader(folder / f"{name}.gguf") for name in ("base", *(version.name for version in versions))]


def fields(reader: gguf.GGUFReader) -> dict[str, Any]:
    return {name: field.contents() for name, field in reader.fields.items()}


def tensors(reader: gguf.GGUFReader) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in reader.tensors}


def test_a_models_weights_are_there_with_queries_and_keys_in_the_order_of_their_rotation(
    tmp_path: Path, model: Path
) -> None:
    (base,) = exported(tmp_path / "out", model)
    found, weights = tensors(base), load_file(model / "model.safetensors")
    assert len(found) == len(weights)
    np.testing.assert_array_equal(found["output.weight"].data, weights["lm_head.weight"].numpy())
    name = "model.layers.1.self_attn.{}_proj.weight"
    np.testing.assert_array_equal(found["blk.1.attn_v.weight"].data, weights[name.format("v")].numpy())
    for letter, heads in (("q", 4), ("k", 2)):
        rows = found[f"blk.1.attn_{letter}.weight"].data.reshape(heads, 4, 2, -1)
        halves = weights[name.format(letter)].numpy().reshape(heads, 2, 4, -1)
        for half in (0, 1):
            np.testing.assert_array_equal(rows[:, :, half], halves[:, half])


def test_a_models_sizes_and_tokens_are_there(tmp_path: Path, model: Path) -> None:
    found = fields(exported(tmp_path / "out", model)[0])
    assert found["llama.attention.head_count_kv"] == 2
    assert found["llama.rope.dimension_count"] == 8
    assert found["tokenizer.ggml.pre"] == "gpt-2"
    assert found["tokenizer.ggml.add_bos_token"] is False
    assert found["tokenizer.ggml.tokens"][256:258] == ["<|end|>", "[PAD257]"]
    kinds = [gguf.TokenType.NORMAL, gguf.TokenType.CONTROL, gguf.TokenType.UNUSED]
    assert found["tokenizer.ggml.token_type"][255:258] == kinds


@pytest.mark.parametrize(("stored", "close"), [("f32", 0.0), ("f16", 1e-3), ("bf16", 1e-2)])
def test_matrices_are_stored_as_asked_and_vectors_in_float32(
    tmp_path: Path, model: Path, stored: StoredType, close: float
) -> None:
    found = tensors(exported(tmp_path / "out", model, stored=stored)[0])
    assert found["blk.0.attn_norm.weight"].tensor_type == gguf.GGMLQuantizationType.F32
    up = found["blk.0.ffn_up.weight"]
    assert up.tensor_type == gguf.GGMLQuantizationType[stored.upper()]
    numbers = gguf.quants.dequantize(up.data, up.tensor_type)
    wanted = load_file(model / "model.safetensors")["model.layers.0.mlp.up_proj.weight"].numpy()
    np.testing.assert_allclose(numbers, wanted, rtol=close)


def test_an_adapter_has_its_invocation_and_scales_as_peft_does(tmp_path: Path, model: Path) -> None:
    plain = adapter(model, tmp_path / "plain")
    alora = adapter(model, tmp_path / "alora", alora_invocation_tokens=[256, 7], use_rslora=True)
    _, first, second = exported(tmp_path / "out", model, plain, alora)
    assert "adapter.alora.invocation_tokens" not in fields(first)
    assert fields(first)["adapter.lora.alpha"] == ALPHA
    assert fields(second)["adapter.alora.invocation_tokens"] == [256, 7]
    # llama.cpp divides by the rank, where PEFT here divides by its root.
    assert fields(second)["adapter.lora.alpha"] == ALPHA * RANK**0.5
    found, weights = tensors(second), load_file(alora.path / "adapter_model.safetensors")
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    np.testing.assert_array_equal(found["blk.0.attn_q.weight.lora_a"].data, weights[key.format("A")].numpy())
    turned = interleaved(weights[key.format("B")].numpy(), heads=4)
    np.testing.assert_array_equal(found["blk.0.attn_q.weight.lora_b"].data, turned)
    assert len(found) == len(weights)


def test_single_digits_before_byte_level_are_smollms_rule(tmp_path: Path, model: Path) -> None:
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    change_json(model / "tokenizer.json", pre_tokenizer={"type": "Sequence", "pretokenizers": [digits, bytes_]})
    assert fields(exported(tmp_path / "out", model)[0])["tokenizer.ggml.pre"] == "smollm"


@pytest.mark.parametrize(
    ("file", "entries", "said"),
    [
        ("config.json", {"architectures": ["Qwen3ForCausalLM"]}, "architectures ['Qwen3ForCausalLM']; only Llama"),
        ("config.json", {"rope_parameters": {"rope_type": "llama3"}}, "rope_parameters of type 'llama3'"),
        ("config.json", {"attention_bias": True}, "attention_bias true; only false"),
        ("config.json", {"hidden_act": "gelu"}, "hidden_act 'gelu'; only 'silu'"),
        ("config.json", {"quantization_config": {"quant_method": "fp8"}}, "a quantization_config"),
        ("config.json", {"hidden_size": "wide"}, "Expected `int`, got `str` - at `$.hidden_size`"),
        ("config.json", {"num_hidden_layers": 3}, "no tensor 'model.layers.2.input_layernorm.weight'"),
        ("config.json", {"num_hidden_layers": 1}, "'model.layers.1.input_layernorm.weight', which no Llama has"),
        ("config.json", {"intermediate_size": 64}, "shape [48, 32]; by its config.json it is [64, 32]"),
        ("config.json", {"vocab_size": 200}, "'model.embed_tokens.weight' has shape [300, 32]"),
        ("tokenizer.json", {"normalizer": {"type": "NFC"}}, "has a normalizer"),
        ("tokenizer.json", {"pre_tokenizer": {"type": "Whitespace"}}, 'pre_tokenizer {"type": "Whitespace"}'),
        ("tokenizer.json", {"model": {"type": "Unigram", "vocab": []}}, "type 'Unigram'; only a byte-level BPE"),
    ],
)
def test_another_kind_of_model_is_refused_by_name_and_nothing_is_left(
    tmp_path: Path, model: Path, file: str, entries: dict[str, Any], said: str
) -> None:
    change_json(model / file, **entries)
    with pytest.raises(SettingsError) as refused:
        export_gguf(tmp_path / "out", ("base", model), ())
    assert said in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_numbers_beyond_float16_are_refused_with_the_types_that_hold_them(tmp_path: Path, model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = 1e5
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SettingsError, match=r"blk.0.ffn_up.weight has numbers beyond float16's; choose the type bf16"):
        export_gguf(tmp_path / "out", ("base", model), (), stored="f16")
    assert not (tmp_path / "out").exists()
    export_gguf(tmp_path / "out", ("base", model), (), stored="bf16")


def test_a_number_that_is_not_finite_is_refused(tmp_path: Path, model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"][0] = torch.nan
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SettingsError, match=r"output_norm.weight has a number that is not finite"):
        export_gguf(tmp_path / "out", ("base", model), ())


def test_a_disk_without_room_is_said_before_anything_is_written(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10))
    with pytest.raises(OSError, match=r"base.gguf needs 0 MiB, 0 MiB are free"):
        export_gguf(tmp_path / "out", ("base", model), ())
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_that_is_there_is_left_as_it_is(tmp_path: Path, model: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match=r"'out' is there already"):
        export_gguf(tmp_path / "out", ("base", model), ())
