"""PEFT folders: what is read from a good one, and what a bad one is refused for."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.peft_adapters import read_adapter

from aloraserve.adapters import BaseShape
from aloraserve.errors import InvalidAdapterError, SettingsError

Write = Callable[..., Path]
Q_A = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"


def read(folder: Path, base: BaseShape, **more: Any) -> Any:
    return read_adapter(folder, base=base, max_rank=8, **more)


def test_a_plain_lora_has_no_invocation(write_adapter: Write, base: BaseShape) -> None:
    adapter = read(write_adapter(), base)
    assert (adapter.name, adapter.kind, adapter.rank, adapter.invocation_ids) == ("safety", "lora", 4, ())
    assert adapter.target_modules == ("down_proj", "q_proj")
    assert len(adapter.digest) == 64
    assert not adapter.untrained


def test_an_alora_has_its_invocation_as_ids(write_adapter: Write, base: BaseShape) -> None:
    folder = write_adapter(alora_invocation_tokens=[1, 99])
    adapter = read(folder, base)
    assert (adapter.kind, adapter.invocation_ids) == ("alora", (1, 99))


def test_the_digest_is_of_config_and_weights(write_adapter: Write, base: BaseShape) -> None:
    changed = {Q_A: np.zeros((4, 8), np.float32)}
    digests = {
        read(write_adapter("a"), base).digest,
        read(write_adapter("b", lora_alpha=9), base).digest,
        read(write_adapter("c", tensors=changed), base).digest,
    }
    assert len(digests) == 3
    assert read(write_adapter("d"), base).digest in digests


def test_the_sidecar_says_that_weights_are_untrained(write_adapter: Write, base: BaseShape) -> None:
    folder = write_adapter()
    (folder / "aloraserve.json").write_text('{"untrained": true, "description": "random"}')
    assert read(folder, base).untrained
    (folder / "aloraserve.json").write_text('{"untrained": "yes"}')
    with pytest.raises(InvalidAdapterError, match=r"aloraserve\.json"):
        read(folder, base)


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"peft_type": "IA3"}, "peft_type"),
        ({"r": 9}, "1 to 8"),
        ({"r": 0}, "r 0"),
        ({"r": True}, "r True"),
        ({"r": "4"}, "r '4'"),
        ({"lora_alpha": None}, "lora_alpha"),
        ({"lora_alpha": float("nan")}, "lora_alpha"),
        ({"target_modules": []}, "target_modules"),
        ({"target_modules": None}, "target_modules"),
        ({"target_modules": ["q_proj", 3]}, "target_modules"),
        ({"target_modules": ["q_proj", "c_attn"]}, "c_attn"),
        ({"target_modules": ["q_proj", "embed_tokens"], "alora_invocation_tokens": [1]}, "embed_tokens"),
        ({"target_modules": ["lm_head"], "alora_invocation_tokens": [1]}, "lm_head"),
        ({"target_modules": ["q_proj", "down_proj", "v_proj"]}, "v_proj"),
        ({"target_modules": ["q_proj"]}, "down_proj"),
        ({"bias": "all"}, "bias"),
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"alora_invocation_tokens": []}, "alora_invocation_tokens"),
        ({"alora_invocation_tokens": [1, 100]}, "0 to 99"),
        ({"alora_invocation_tokens": [-1]}, "-1"),
        ({"alora_invocation_tokens": [True]}, "True"),
        ({"alora_invocation_tokens": "go"}, "'go'"),
    ],
)
def test_a_config_that_cannot_be_served_is_refused_by_key(
    write_adapter: Write, base: BaseShape, config: dict[str, Any], word: str
) -> None:
    with pytest.raises(InvalidAdapterError) as caught:
        read(write_adapter(**config), base)
    assert word in caught.value.message


@pytest.mark.parametrize(
    ("tensors", "word"),
    [
        ({Q_A: np.ones((4, 9), np.float32)}, "[4, 8]"),
        ({Q_A: np.ones((2, 8), np.float32)}, "[4, 8]"),
        ({Q_A: np.full((4, 8), np.nan, np.float32)}, "NaN"),
        ({Q_A: np.full((4, 8), np.inf, np.float16)}, "infinity"),
        ({Q_A: np.ones((4, 8), np.float64)}, "F64"),
        ({Q_A.replace("layers.1", "layers.2"): np.ones((4, 8), np.float32)}, "layer 2"),
        ({Q_A.replace("layers.1", "layers.0"): np.ones((4, 8), np.float32)}, "no lora_B"),
        ({"base_model.model.lm_head.lora_A.weight": np.ones((4, 8), np.float32)}, "lm_head"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    write_adapter: Write, base: BaseShape, tensors: dict[str, Any], word: str
) -> None:
    with pytest.raises(InvalidAdapterError) as caught:
        read(write_adapter(tensors=tensors), base)
    assert word in caught.value.message


def test_a_pickle_is_never_loaded(write_adapter: Write, base: BaseShape) -> None:
    folder = write_adapter()
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps({}))
    with pytest.raises(InvalidAdapterError, match="pickle"):
        read(folder, base)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_link_out_of_the_folder_is_refused(write_adapter: Write, base: BaseShape, name: str) -> None:
    folder = write_adapter()
    outside = folder.parent / "outside"
    (folder / name).rename(outside)
    (folder / name).symlink_to(outside)
    with pytest.raises(InvalidAdapterError, match="link out"):
        read(folder, base)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"[" * 100_000, b'{"a":1}' + b" " * 1024 * 1024])
def test_a_broken_file_is_refused_by_name(
    write_adapter: Write, base: BaseShape, name: str, content: bytes | None
) -> None:
    folder = write_adapter()
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(InvalidAdapterError, match=name):
        read(folder, base)


@pytest.mark.parametrize("name", ["-x", "a b", "é", "a" * 65])
def test_a_name_that_cannot_be_served_is_refused(write_adapter: Write, base: BaseShape, name: str) -> None:
    with pytest.raises(InvalidAdapterError, match="name"):
        read(write_adapter(name), base)


def test_a_base_without_its_sizes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="num_attention_heads"):
        BaseShape.from_config({"hidden_size": 8})
    with pytest.raises(SettingsError, match=r"config\.json"):
        BaseShape.read(tmp_path)
