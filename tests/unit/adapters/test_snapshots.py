"""Snapshots: written once, whole or not at all, kept while they are used."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from aloraserve.adapters import SnapshotStore
from aloraserve.adapters import snapshots as module
from aloraserve.adapters.peft_files import AdapterFiles, read_files
from aloraserve.errors import InvalidAdapterError


@pytest.fixture
def files(tmp_path: Path) -> AdapterFiles:
    return adapter_files(tmp_path / "source", b"weights")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "state" / "adapters"


@pytest.fixture
def store(root: Path) -> SnapshotStore:
    return SnapshotStore(root)


def adapter_files(folder: Path, weights: bytes) -> AdapterFiles:
    folder.mkdir()
    for name, content in (("adapter_config.json", b'{"r": 4}'), ("adapter_model.safetensors", weights)):
        (folder / name).write_bytes(content)
    return read_files(folder)


def kept(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.is_dir())


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_a_snapshot_is_the_files_that_were_put(files: AdapterFiles, store: SnapshotStore, root: Path) -> None:
    path = store.put(files.digest, files)
    assert path == root / files.digest
    assert read_files(path).digest == files.digest


def test_it_is_written_once(files: AdapterFiles, store: SnapshotStore) -> None:
    path = store.put(files.digest, files)
    inode = (path / "adapter_model.safetensors").stat().st_ino
    assert store.put(files.digest, files) == path
    assert (path / "adapter_model.safetensors").stat().st_ino == inode


def test_one_that_lost_a_part_is_written_again(files: AdapterFiles, store: SnapshotStore) -> None:
    path = store.put(files.digest, files)
    (path / "adapter_model.safetensors").write_bytes(b"wei")
    assert read_files(store.put(files.digest, files)).digest == files.digest


@pytest.mark.parametrize("content", [b"WEIGHTS", b"wei", b"weights and more"])
def test_files_that_changed_since_they_were_checked_are_not_kept(
    files: AdapterFiles, store: SnapshotStore, root: Path, content: bytes
) -> None:
    digest = files.digest
    (files.folder / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(InvalidAdapterError, match="changed while") as caught:
        store.put(digest, files)
    assert isinstance(caught.value.__cause__, OSError)
    assert kept(root) == []


def test_a_folder_that_cannot_be_written_is_said_without_its_path(files: AdapterFiles, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(InvalidAdapterError, match=r"cannot be copied into the state folder: ") as caught:
        SnapshotStore(tmp_path / "state" / "adapters").put(files.digest, files)
    assert str(tmp_path) not in caught.value.message


def test_only_what_was_put_can_be_had(files: AdapterFiles, store: SnapshotStore, root: Path) -> None:
    assert store.get(files.digest) is None
    store.put(files.digest, files)
    assert store.get(files.digest) == root / files.digest


def test_what_nobody_uses_is_removed_after_a_while(store: SnapshotStore, root: Path, tmp_path: Path) -> None:
    used, unused, fresh, mine = (adapter_files(tmp_path / str(number), bytes([number])) for number in range(4))
    for files in (used, unused, fresh, mine):
        store.put(files.digest, files)
    (root / ".new-of-a-crash").mkdir()
    for path in (root / used.digest, root / unused.digest, root / mine.digest, root / ".new-of-a-crash"):
        age(path, module.UNUSED_S + 1)
    SnapshotStore(root).use({mine.digest})
    store.put(used.digest, used)
    assert kept(root) == sorted([fresh.digest, mine.digest, used.digest])


def test_what_is_used_stays(files: AdapterFiles, store: SnapshotStore, root: Path) -> None:
    store.put(files.digest, files)
    age(root / files.digest, module.UNUSED_S + 1)
    store.use({files.digest, "0" * 64})
    assert store.get(files.digest) is not None


def test_many_at_once_write_it_whole(root: Path, tmp_path: Path) -> None:
    files = adapter_files(tmp_path / "source", bytes(1 << 20))
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(SnapshotStore(root).put(files.digest, files))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(read_files(path).digest == files.digest for path in found)
    assert kept(root) == [files.digest]
