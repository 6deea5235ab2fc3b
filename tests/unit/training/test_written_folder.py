"""A folder is replaced as a whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from aloraserve.errors import StartError
from aloraserve_services.training.checkpoints import Checkpoints, load_adapter
from aloraserve_services.training.written_folder import write_folder

Fail = Callable[[Path], bool]


def failing_rename(monkeypatch: pytest.MonkeyPatch, fails: Fail) -> None:
    renamed = Path.rename

    def rename(path: Path, target: Path) -> Path:
        if fails(Path(target)):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return renamed(path, target)

    monkeypatch.setattr(Path, "rename", rename)


@pytest.mark.parametrize("which", [1, 2])
def test_a_failed_rename_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: int) -> None:
    folder = tmp_path / "adapter"
    write_folder(folder, lambda work: (work / "file").write_text("old") and None)
    targets: list[Path] = []

    def fails(target: Path) -> bool:
        targets.append(target)
        return len(targets) == which

    failing_rename(monkeypatch, fails)
    with pytest.raises(OSError, match="Input/output"):
        write_folder(folder, lambda work: (work / "file").write_text("new") and None)
    assert (folder / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_the_best_adapter_is_there_at_every_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path)
    seen: list[Path | None] = []
    checkpoints.save_best({"weight": torch.zeros(2)}, 5)

    def looks(target: Path) -> bool:
        seen.append(checkpoints.best)
        return False

    failing_rename(monkeypatch, looks)
    checkpoints.save_best({"weight": torch.ones(2)}, 10)
    assert seen == [tmp_path / "best-5"]
    assert checkpoints.best == tmp_path / "best-10"
    assert load_adapter(tmp_path / "best-10")["weight"].tolist() == [1, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["best-10"]
    failing_rename(monkeypatch, lambda target: True)
    with pytest.raises(StartError, match="the adapter of step 15 cannot be written"):
        checkpoints.save_best({"weight": torch.ones(2)}, 15)
    assert checkpoints.best == tmp_path / "best-10"
