"""Sizes that no engine could have are refused before one is started, with what would do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aloraserve.errors import SettingsError
from aloraserve.settings import Settings
from aloraserve_services.models import sizes
from aloraserve_services.models.sizes import check_sizes

SMOLLM2 = {
    "max_position_embeddings": 8192,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "hidden_size": 576,
    "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"},
}


@pytest.fixture(autouse=True)
def cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "is_cpu_engine", lambda: True)


def check(tmp_path: Path, config: dict[str, Any] | None = None, **settings: Any) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SMOLLM2 | (config or {})))
    (tmp_path / "model.safetensors").write_bytes(b"0" * 1024)
    check_sizes(Settings(**settings), tmp_path, "float32")


def test_the_packaged_model_s_defaults_fit(tmp_path: Path) -> None:
    check(tmp_path)


def test_a_context_beyond_the_model_s_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="max_model_len is 16384; the model's context has 8192 tokens"):
        check(tmp_path, max_model_len=16384, kv_cache_gib=4)


@pytest.mark.parametrize("rope", [{"rope_scaling": {"factor": 4.0}}, {"rope_parameters": {"full": {"factor": 2}}}])
def test_a_context_that_positions_are_scaled_to_is_the_engine_s_to_judge(tmp_path: Path, rope: dict[str, Any]) -> None:
    check(tmp_path, rope, max_model_len=16384, kv_cache_gib=4)


def test_a_cache_too_small_for_one_call_is_refused_with_what_it_takes(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"kv_cache_gib is 0\.05; one call of max_model_len 8192 takes 0\.352"):
        check(tmp_path, kv_cache_gib=0.05)
    check(tmp_path, kv_cache_gib=0.352)
    check(tmp_path, kv_cache_gib=0.05, max_model_len=1024)


@pytest.mark.parametrize("config", [{"kv_lora_rank": 512}, {"sliding_window": 512}, {"layer_types": ["mamba"]}])
def test_a_cache_of_another_kind_of_model_is_the_engine_s_to_judge(tmp_path: Path, config: dict[str, Any]) -> None:
    check(tmp_path, config, kv_cache_gib=0.05)


def test_caches_beyond_the_machine_s_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "machine_memory", lambda: 8 << 30)
    check(tmp_path, replicas=7)
    with pytest.raises(SettingsError, match=r"replicas is 9 with kv_cache_gib 1 .* this machine has 8\.0 GiB"):
        check(tmp_path, replicas=9)


def test_a_control_group_s_limit_is_the_memory_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text, limit in (("1048576\n", 1 << 20), ("max\n", None)):
        (tmp_path / "memory.max").write_text(text)
        monkeypatch.setattr(sizes, "_CGROUP_LIMITS", (str(tmp_path / "memory.max"), str(tmp_path / "none")))
        assert sizes.machine_memory() == limit if limit else sizes.machine_memory() > 1 << 28
