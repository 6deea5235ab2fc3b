"""The digest of a model's files: equal where the files are, different where a file is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.peft_adapters import BASE, BASE_CONFIG, write_peft_adapter

from aloraserve.adapters import AdapterLimits
from aloraserve.errors import SettingsError
from aloraserve.settings import load_settings, settings_from_arguments
from aloraserve_services.plan import FleetPlan, content_digest, make_plan

WEIGHTS = bytes(range(256)) * 16
LARGE_BYTES = 4 << 20
PATTERNS = ("*.safetensors", "config.json")


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    """A model's folder as far as a plan reads it."""
    made = tmp_path / "tiny"
    made.mkdir()
    (made / "config.json").write_text("{}")
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tmp_path / "model")


def written(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "one.safetensors").write_bytes(WEIGHTS)
    (folder / "two.safetensors").write_bytes(WEIGHTS[::-1])
    return folder


def digest(folder: Path) -> str:
    return content_digest(folder, PATTERNS)


def test_the_same_files_elsewhere_have_the_same_digest(folder: Path, tmp_path: Path) -> None:
    assert digest(written(tmp_path / "copy")) == digest(folder)
    assert int(digest(folder), 16) >= 0


def test_files_that_match_no_pattern_do_not_count(folder: Path) -> None:
    before = digest(folder)
    (folder / "README.md").write_text("new")
    (folder / "tokenizer.json").write_text("{}")
    assert digest(folder) == before


@pytest.mark.parametrize("at", [0, 1, len(WEIGHTS) // 2, len(WEIGHTS) - 1])
def test_any_byte_of_a_small_file_counts(folder: Path, at: int) -> None:
    before = digest(folder)
    changed = bytearray(WEIGHTS)
    changed[at] ^= 1
    (folder / "one.safetensors").write_bytes(changed)
    assert digest(folder) != before


def test_a_file_more_less_or_renamed_counts(folder: Path) -> None:
    found = [digest(folder)]
    (folder / "three.safetensors").write_bytes(b"")
    found.append(digest(folder))
    (folder / "three.safetensors").rename(folder / "thread.safetensors")
    found.append(digest(folder))
    (folder / "thread.safetensors").unlink()
    (folder / "two.safetensors").unlink()
    found.append(digest(folder))
    assert len(set(found)) == 4


def test_contents_that_change_places_count(folder: Path) -> None:
    before = digest(folder)
    (folder / "one.safetensors").write_bytes(WEIGHTS[::-1])
    (folder / "two.safetensors").write_bytes(WEIGHTS)
    assert digest(folder) != before


@pytest.mark.parametrize("sample", [0, 7, 15])
def test_the_samples_of_a_large_file_count_and_so_does_its_size(folder: Path, sample: int) -> None:
    file = folder / "one.safetensors"
    content = bytearray(LARGE_BYTES)
    file.write_bytes(content)
    before = digest(folder)
    content[sample * LARGE_BYTES // 16] = 1
    file.write_bytes(content)
    changed = digest(folder)
    file.write_bytes(bytes(LARGE_BYTES + 16))
    assert len({before, changed, digest(folder)}) == 3


def test_no_file_at_all_has_a_digest_too(tmp_path: Path) -> None:
    assert content_digest(tmp_path, PATTERNS) == content_digest(tmp_path, ("x",))


def test_a_block_size_that_the_cpu_s_attention_does_not_take_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"block_tokens is 16; on a CPU .* multiples of 32"):
        make_plan(load_settings(block_tokens=16, state_dir=tmp_path))


def test_a_simulated_fleet_takes_any_block_size_and_no_real_replica_fits_into_it(
    model_path: Path, tmp_path: Path
) -> None:
    shared = {"model": str(model_path), "state_dir": tmp_path, "block_tokens": 32}
    real = make_plan(load_settings(**shared))
    simulated = make_plan(load_settings(**shared, engine="simulated"))
    assert real.calibration is None
    assert simulated.calibration is not None
    assert simulated.calibration.name == "live-peers"
    assert (real.max_requests, simulated.max_requests) == (16, simulated.calibration.max_num_seqs)
    assert real.keyspace != simulated.keyspace
    assert make_plan(load_settings(**shared | {"block_tokens": 16}, engine="simulated")).keyspace.block_tokens == 16


def test_quantized_weights_share_no_directory_with_others(model_path: Path, tmp_path: Path) -> None:
    shared: dict[str, Any] = {"model": str(model_path), "state_dir": tmp_path, "dtype": "float32"}
    plain = make_plan(load_settings(**shared))
    spread = make_plan(load_settings(**shared, engine_args={"tensor_parallel_size": 3}))
    quantized = make_plan(load_settings(**shared, engine_args={"quantization": "compressed-tensors"}))
    assert plain.keyspace == spread.keyspace
    assert plain.keyspace != quantized.keyspace
    # Adapters fit the model, whatever its weights are stored as.
    assert plain.base_fingerprint == quantized.base_fingerprint


def test_a_calibration_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"calibration is 'nowhere'; .*live-peers"):
        make_plan(load_settings(engine="simulated", calibration="nowhere", state_dir=tmp_path))


class TestAdapters:
    def test_a_fleet_without_a_folder_has_no_room_for_adapters(self, model_path: Path, tmp_path: Path) -> None:
        plan = make_plan(load_settings(model=str(model_path), state_dir=tmp_path))
        assert plan.limits is None
        assert plan.open_registry().all() == ()

    @pytest.fixture
    def made(self, model_path: Path, tmp_path: Path) -> Callable[..., FleetPlan]:
        """Make a plan for the model of :mod:`support.peft_adapters`, with an empty folder of adapters."""
        (model_path / "config.json").write_text(json.dumps(BASE_CONFIG))
        (tmp_path / "adapters").mkdir()
        same = {"model": str(model_path), "state_dir": tmp_path / "state", "adapters_dir": tmp_path / "adapters"}
        return lambda **settings: make_plan(load_settings(**same | settings))

    def test_an_empty_folder_leaves_room_for_any_adapter(self, made: Callable[..., FleetPlan]) -> None:
        limits = made(max_lora_rank=32).limits
        assert limits == AdapterLimits(frozenset(BASE.linears()), 32)

    def test_room_is_for_the_adapters_at_the_start_and_for_what_is_reserved(
        self, made: Callable[..., FleetPlan], tmp_path: Path
    ) -> None:
        write_peft_adapter(tmp_path / "adapters" / "safety", rank=12)
        write_peft_adapter(tmp_path / "adapters" / "bad", targets=("up_proj",), r=0)
        assert made().limits == AdapterLimits(frozenset({"q_proj", "down_proj"}), 16)
        more = made(reserve_modules=["v_proj"], reserve_rank=64).limits
        assert more == AdapterLimits(frozenset({"q_proj", "down_proj", "v_proj"}), 64)

    def test_a_linear_that_the_model_does_not_have_is_refused(self, made: Callable[..., FleetPlan]) -> None:
        with pytest.raises(SettingsError, match=r"reserve_modules has 'w1'; accepted are q_proj, k_proj"):
            made(reserve_modules=["w1"])

    def test_engines_load_from_the_store_in_the_state_folder(
        self, made: Callable[..., FleetPlan], tmp_path: Path
    ) -> None:
        write_peft_adapter(tmp_path / "adapters" / "safety")
        (version,) = made().open_registry().all()
        assert version.path == tmp_path / "state" / "adapter-snapshots" / version.digest
        (version,) = made(adapter_store=str(tmp_path / "shared")).open_registry().all()
        assert version.path == tmp_path / "shared" / version.digest

    def test_later_adapters_must_fit_the_engines(self, made: Callable[..., FleetPlan], tmp_path: Path) -> None:
        write_peft_adapter(tmp_path / "adapters" / "safety")
        plan = made()
        write_peft_adapter(tmp_path / "adapters" / "wider", targets=("up_proj",))
        registry = plan.open_registry()
        assert [version.name for version in registry.all()] == ["safety"]
        assert "it changes up_proj" in registry.refused()[0].reason

    def test_a_plan_s_arguments_make_the_same_plan_whatever_is_in_the_folder_by_then(
        self, made: Callable[..., FleetPlan], tmp_path: Path
    ) -> None:
        write_peft_adapter(tmp_path / "adapters" / "safety")
        plan = made()
        write_peft_adapter(tmp_path / "adapters" / "wider", targets=("up_proj",))
        assert make_plan(settings_from_arguments(plan.settings.to_arguments())) == plan

    def test_an_exact_reserve_says_what_it_is(self, made: Callable[..., FleetPlan]) -> None:
        with pytest.raises(SettingsError, match="reserve_exactly needs reserve_modules and reserve_rank"):
            made(reserve_exactly=True, reserve_rank=8)
