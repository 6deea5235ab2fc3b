"""Snapshots: written once, whole or not at all, kept while they are used."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aloraserve.adapters import SnapshotStore
from aloraserve.adapters import snapshots as module
from aloraserve.adapters.peft_files import AdapterFiles, read_files
from aloraserve.errors import InvalidAdapterError

FILES = AdapterFiles(b'{"r": 4}', b"weights")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "state" / "adapters"


@pytest.fixture
def store(root: Path) -> SnapshotStore:
    return SnapshotStore(root)


def kept(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.is_dir())


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_a_snapshot_is_the_files_that_were_put(store: SnapshotStore, root: Path) -> None:
    path = store.put(FILES.digest, FILES)
    assert path == root / FILES.digest
    assert read_files(path) == FILES


def test_it_is_written_once(store: SnapshotStore) -> None:
    path = store.put(FILES.digest, FILES)
    inode = (path / "adapter_model.safetensors").stat().st_ino
    assert store.put(FILES.digest, FILES) == path
    assert (path / "adapter_model.safetensors").stat().st_ino == inode


def test_one_that_lost_a_part_is_written_again(store: SnapshotStore) -> None:
    path = store.put(FILES.digest, FILES)
    (path / "adapter_model.safetensors").write_bytes(b"wei")
    assert read_files(store.put(FILES.digest, FILES)) == FILES


def test_one_that_reads_back_otherwise_is_not_kept(
    store: SnapshotStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write: Callable[[Path, bytes], None] = module._write_file
    monkeypatch.setattr(module, "_write_file", lambda path, content: write(path, content[::-1]))
    with pytest.raises(InvalidAdapterError, match="does not read back"):
        store.put(FILES.digest, FILES)
    assert kept(root) == []


def test_a_folder_that_cannot_be_written_is_said_without_its_path(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(InvalidAdapterError, match=r"cannot be copied into the state folder: ") as caught:
        SnapshotStore(tmp_path / "state" / "adapters").put(FILES.digest, FILES)
    assert str(tmp_path) not in caught.value.message


def test_only_what_was_put_can_be_had(store: SnapshotStore, root: Path) -> None:
    assert store.get(FILES.digest) is None
    store.put(FILES.digest, FILES)
    assert store.get(FILES.digest) == root / FILES.digest


def test_what_nobody_uses_is_removed_after_a_while(store: SnapshotStore, root: Path) -> None:
    used, unused, fresh, mine = (AdapterFiles(b"{}", bytes([number])) for number in range(4))
    for files in (used, unused, fresh, mine):
        store.put(files.digest, files)
    (root / ".new-of-a-crash").mkdir()
    for path in (root / used.digest, root / unused.digest, root / mine.digest, root / ".new-of-a-crash"):
        age(path, module.UNUSED_S + 1)
    SnapshotStore(root).use({mine.digest})
    store.put(used.digest, used)
    assert kept(root) == sorted([fresh.digest, mine.digest, used.digest])


def test_what_is_used_stays(store: SnapshotStore, root: Path) -> None:
    store.put(FILES.digest, FILES)
    age(root / FILES.digest, module.UNUSED_S + 1)
    store.use({FILES.digest, "0" * 64})
    assert store.get(FILES.digest) is not None


def test_many_at_once_write_it_whole(root: Path) -> None:
    files = AdapterFiles(b"{}", bytes(1 << 20))
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(SnapshotStore(root).put(files.digest, files))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(read_files(path) == files for path in found)
    assert kept(root) == [files.digest]
