"""Folders as sources: real files, and no way out of the folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from aloraserve.adapters.sources import SourceFetcher, SourcePolicy
from aloraserve.adapters.sources.base import SourceChangedError
from aloraserve.adapters.sources.folder import FolderSource
from aloraserve.errors import AdapterSourceError

Write = Callable[..., Path]


@pytest.fixture
def fetch(tmp_path: Path) -> Callable[[object], Path]:
    """Fetch from below ``tmp_path/root``."""
    (tmp_path / "root").mkdir()
    (tmp_path / "stage").mkdir()

    def stage() -> Path:
        folder = tmp_path / "stage" / "new"
        folder.mkdir()
        return folder

    return lambda source: SourceFetcher(SourcePolicy.of([str(tmp_path / "root")]), stage).fetch(str(source))


@pytest.fixture
def adapter(tmp_path: Path, write_adapter: Write, fetch: object) -> Path:
    return write_adapter("root/safety")


def left(tmp_path: Path) -> list[str]:
    return os.listdir(tmp_path / "stage")


def test_the_known_files_are_copied_and_nothing_else(adapter: Path, fetch: Callable[[object], Path]) -> None:
    (adapter / "aloraserve.json").write_text("{}")
    (adapter / "optimizer.pt").write_bytes(b"x")
    folder = fetch(adapter)
    assert sorted(os.listdir(folder)) == ["adapter_config.json", "adapter_model.safetensors", "aloraserve.json"]
    for name in os.listdir(folder):
        assert (folder / name).read_bytes() == (adapter / name).read_bytes()


def test_a_copy_does_not_follow_its_source(adapter: Path, fetch: Callable[[object], Path]) -> None:
    folder = fetch(adapter)
    before = (folder / "adapter_config.json").read_bytes()
    with (adapter / "adapter_config.json").open("r+b") as file:
        file.write(b"XXXX")
    shutil.rmtree(adapter)
    assert (folder / "adapter_config.json").read_bytes() == before


def test_a_link_out_of_the_folder_is_refused(adapter: Path, tmp_path: Path, fetch: Callable[[object], Path]) -> None:
    secret = tmp_path / "secret"
    secret.write_text("{}")
    for target in (secret, Path("../../secret")):
        (adapter / "aloraserve.json").unlink(missing_ok=True)
        (adapter / "aloraserve.json").symlink_to(target)
        with pytest.raises(
            AdapterSourceError, match=r"aloraserve.json is a link out of the adapter's folder"
        ) as caught:
            fetch(adapter)
        assert str(tmp_path) not in str(caught.value)
    assert left(tmp_path) == []


def test_links_within_the_folder_and_within_a_hub_cache_are_followed(
    adapter: Path, fetch: Callable[[object], Path]
) -> None:
    cache = adapter.parent / "models--a--b"
    snapshot = cache / "snapshots" / "c0ffee" / "safety"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for number, name in enumerate(("adapter_config.json", "adapter_model.safetensors")):
        (adapter / name).rename(cache / "blobs" / str(number))
        (snapshot / name).symlink_to(f"../../../blobs/{number}")
    (snapshot / "io.yaml").write_text("model: a")
    (snapshot / "aloraserve.json").symlink_to("io.yaml")
    assert len(os.listdir(fetch(snapshot))) == 4


def test_a_pipe_is_refused_and_not_waited_for(adapter: Path, fetch: Callable[[object], Path]) -> None:
    (adapter / "adapter_config.json").unlink()
    os.mkfifo(adapter / "adapter_config.json")
    with pytest.raises(AdapterSourceError, match=r"adapter_config.json is not a regular file"):
        fetch(adapter)


@pytest.mark.parametrize("how", ["written", "replaced"])
def test_a_file_that_changes_while_it_is_read_shows(adapter: Path, how: str) -> None:
    source = FolderSource(adapter, lambda _: True)
    file = next(file for file in source.files() if file.name.endswith("safetensors"))
    reading = source.read(file, 0)
    next(reading)
    path = adapter / file.name
    if how == "written":
        with path.open("ab") as opened:
            opened.write(b"more")
    else:
        shutil.copy(path, path.with_suffix(".new"))
        os.replace(path.with_suffix(".new"), path)
        reading = source.read(file, 0)
    with pytest.raises(SourceChangedError):
        list(reading)


def test_a_pointer_of_git_lfs_is_said_to_be_one(adapter: Path, fetch: Callable[[object], Path]) -> None:
    (adapter / "adapter_model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
    with pytest.raises(AdapterSourceError, match="git lfs pull"):
        fetch(adapter)


def test_a_folder_that_is_gone_is_one_error(adapter: Path, tmp_path: Path, fetch: Callable[[object], Path]) -> None:
    shutil.rmtree(adapter)
    with pytest.raises(AdapterSourceError, match="not a folder"):
        fetch(adapter)
    assert left(tmp_path) == []
