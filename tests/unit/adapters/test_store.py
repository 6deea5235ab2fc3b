"""The store: written once, whole or not at all, kept while something uses or refers to it; without a lock."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from aloraserve.adapters import AdapterStore
from aloraserve.adapters import store as module
from aloraserve.adapters.peft_files import AdapterFiles, read_files
from aloraserve.errors import InvalidAdapterError


@pytest.fixture
def files(tmp_path: Path) -> AdapterFiles:
    return adapter_files(tmp_path / "source", b"weights")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "state" / "adapters"


@pytest.fixture
def store(root: Path) -> AdapterStore:
    return AdapterStore(root)


def adapter_files(folder: Path, weights: bytes) -> AdapterFiles:
    folder.mkdir()
    for name, content in (("adapter_config.json", b'{"r": 4}'), ("adapter_model.safetensors", weights)):
        (folder / name).write_bytes(content)
    return read_files(folder)


def kept(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.is_dir() and path.name != ".references")


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_a_content_is_the_files_that_were_put(files: AdapterFiles, store: AdapterStore, root: Path) -> None:
    path = store.put(files.digest, files)
    assert path == root / files.digest
    assert read_files(path).digest == files.digest


def test_it_is_written_once(files: AdapterFiles, store: AdapterStore) -> None:
    path = store.put(files.digest, files)
    inode = (path / "adapter_model.safetensors").stat().st_ino
    assert store.put(files.digest, files) == path
    assert (path / "adapter_model.safetensors").stat().st_ino == inode


def test_one_that_lost_a_part_is_written_again(files: AdapterFiles, store: AdapterStore) -> None:
    path = store.put(files.digest, files)
    (path / "adapter_model.safetensors").unlink()
    assert read_files(store.put(files.digest, files)).digest == files.digest
    assert kept(path.parent) == [files.digest]


@pytest.mark.parametrize("content", [b"WEIGHTS", b"wei", b"weights and more"])
def test_files_that_changed_since_they_were_checked_are_not_kept(
    files: AdapterFiles, store: AdapterStore, root: Path, content: bytes
) -> None:
    digest = files.digest
    (files.folder / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(InvalidAdapterError, match="changed while") as caught:
        store.put(digest, files)
    assert isinstance(caught.value.__cause__, OSError)
    assert kept(root) == []


def test_a_folder_that_cannot_be_written_is_said_without_its_path(files: AdapterFiles, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(InvalidAdapterError, match=r"cannot be written to the adapter store: ") as caught:
        AdapterStore(tmp_path / "state" / "adapters").put(files.digest, files)
    assert str(tmp_path) not in caught.value.message


def test_only_what_was_put_can_be_had(files: AdapterFiles, store: AdapterStore, root: Path) -> None:
    assert store.get(files.digest) is None
    store.put(files.digest, files)
    assert store.get(files.digest) == root / files.digest


def test_what_nobody_uses_is_removed_after_a_while(store: AdapterStore, root: Path, tmp_path: Path) -> None:
    used, unused, fresh, mine = (adapter_files(tmp_path / str(number), bytes([number])) for number in range(4))
    for files in (used, unused, fresh, mine):
        store.put(files.digest, files)
    for path in (root / used.digest, root / unused.digest, root / mine.digest):
        age(path, module.UNUSED_S + 1)
    AdapterStore(root).use({mine.digest})
    store.put(used.digest, used)
    assert kept(root) == sorted([fresh.digest, mine.digest, used.digest])


def test_what_a_crash_left_is_removed_once_nobody_writes_into_it(store: AdapterStore, root: Path) -> None:
    left, written = store.stage(), store.stage()
    (written / "adapter_model.safetensors").write_bytes(b"more and more")
    age(left, module.STAGED_S + 1)
    age(written, module.STAGED_S + 1)
    store.use(set())
    assert kept(root) == [written.name]


def staged(store: AdapterStore, files: AdapterFiles) -> Path:
    folder = store.stage()
    for name in files.sizes:
        shutil.copy(files.folder / name, folder)
    return folder


def test_a_staged_folder_is_moved_and_not_copied(files: AdapterFiles, store: AdapterStore, root: Path) -> None:
    folder = staged(store, files)
    inode = (folder / "adapter_model.safetensors").stat().st_ino
    path = store.keep(files.digest, folder)
    assert path == root / files.digest
    assert (path / "adapter_model.safetensors").stat().st_ino == inode
    assert kept(root) == [files.digest]
    assert not os.access(path / "adapter_model.safetensors", os.W_OK) or os.geteuid() == 0
    assert (path / "adapter_model.safetensors").stat().st_mode & 0o777 == 0o444


def test_one_that_is_there_is_kept_as_it_is(files: AdapterFiles, store: AdapterStore, root: Path) -> None:
    inode = (store.put(files.digest, files) / "adapter_model.safetensors").stat().st_ino
    path = store.keep(files.digest, staged(store, files))
    assert (path / "adapter_model.safetensors").stat().st_ino == inode
    assert kept(root) == [files.digest]


def test_a_staged_folder_that_changed_after_the_check_is_not_kept(
    files: AdapterFiles, store: AdapterStore, root: Path
) -> None:
    folder = staged(store, files)
    (folder / "adapter_model.safetensors").write_bytes(b"WEIGHTS")
    with pytest.raises(InvalidAdapterError, match="changed after they were checked"):
        store.keep(files.digest, folder)
    store.discard(folder)
    assert kept(root) == []
    assert not store.has(files.digest)


def test_what_a_fleet_refers_to_stays_until_it_is_released_by_all(
    files: AdapterFiles, store: AdapterStore, root: Path
) -> None:
    other = AdapterStore(root, "other")
    for each in (store, other):
        path = each.keep(files.digest, staged(each, files))
    for each, is_kept in ((store, True), (other, False)):
        each.release(files.digest)
        each.release(files.digest)
        age(path, module.UNUSED_S + 1)
        AdapterStore(root, "third").use(set())
        assert store.has(files.digest) is is_kept


def test_a_reference_that_no_adapter_has_is_given_up_after_a_day(
    files: AdapterFiles, store: AdapterStore, root: Path
) -> None:
    other = AdapterStore(root, "other")
    for each in (store, other):
        path = each.keep(files.digest, staged(each, files))
    for passed_s, is_kept in ((module.LEFT_S - 60, True), (module.LEFT_S + 60, False)):
        age(root / ".references" / "default" / files.digest, passed_s)
        store.refer_only(["0" * 64])
        assert (root / ".references" / "default" / files.digest).exists() is is_kept
    age(path, module.UNUSED_S + 1)
    store.use(set())
    assert store.has(files.digest), "another fleet's references are its own"


def test_what_adapters_have_is_referred_to_whoever_released_it(
    files: AdapterFiles, store: AdapterStore, root: Path
) -> None:
    path = store.keep(files.digest, staged(store, files))
    store.release(files.digest)
    store.refer_only([files.digest])
    age(path, module.UNUSED_S + 1)
    store.use(set())
    assert store.has(files.digest)


def test_what_somebody_begins_to_use_while_it_is_removed_stays(
    files: AdapterFiles, store: AdapterStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store.put(files.digest, files)
    age(path, module.UNUSED_S + 1)
    set_aside = AdapterStore._set_aside

    def used_meanwhile(self: AdapterStore, target: Path) -> Path:
        assert AdapterStore(root).get(files.digest) == target
        return set_aside(self, target)

    monkeypatch.setattr(AdapterStore, "_set_aside", used_meanwhile)
    store.use(set())
    assert read_files(path).digest == files.digest
    assert kept(root) == [files.digest]


def test_times_are_the_volume_s_and_not_this_machine_s(
    files: AdapterFiles, store: AdapterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(files.digest, files)
    monkeypatch.setattr(time, "time", lambda: 4e9)
    store.use(set())
    assert store.has(files.digest)


def test_what_is_used_stays(files: AdapterFiles, store: AdapterStore, root: Path) -> None:
    store.put(files.digest, files)
    age(root / files.digest, module.UNUSED_S + 1)
    store.use({files.digest, "0" * 64})
    assert store.get(files.digest) is not None


def test_many_at_once_write_it_whole(root: Path, tmp_path: Path) -> None:
    files = adapter_files(tmp_path / "source", bytes(1 << 20))
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(AdapterStore(root).put(files.digest, files))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(read_files(path).digest == files.digest for path in found)
    assert kept(root) == [files.digest]
