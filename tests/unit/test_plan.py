"""The digest of a model's files: equal where the files are, different where a file is."""

from __future__ import annotations

from pathlib import Path

import pytest

from aloraserve.errors import SettingsError
from aloraserve.settings import load_settings
from aloraserve_services.plan import content_digest, make_plan

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


def test_a_calibration_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"calibration is 'nowhere'; .*live-peers"):
        make_plan(load_settings(engine="simulated", calibration="nowhere", state_dir=tmp_path))
