"""The folder catalog: good adapters are served, bad ones are listed with the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from aloraserve.adapters import AdapterCatalog, BaseShape, FolderCatalog, folder
from aloraserve.errors import SettingsError

Write = Callable[..., Path]


def catalog(root: Path, base: BaseShape) -> AdapterCatalog:
    return FolderCatalog(root, base=base, base_names={"base"}, max_rank=8)


def test_a_bad_adapter_hides_no_good_one(write_adapter: Write, base: BaseShape, tmp_path: Path) -> None:
    write_adapter("zeta")
    write_adapter("bad", r=99)
    write_adapter("alpha", alora_invocation_tokens=[1])
    (tmp_path / ".partial").mkdir()
    (tmp_path / "notes.txt").write_text("not an adapter")
    found = catalog(tmp_path, base)
    assert [adapter.name for adapter in found.all()] == ["alpha", "zeta"]
    assert [refused.name for refused in found.refused()] == ["bad"]
    assert "r 99" in found.refused()[0].reason
    assert found.get("bad") is None
    assert found.get("alpha") is found.all()[0]


def test_the_base_model_s_name_cannot_be_taken(write_adapter: Write, base: BaseShape, tmp_path: Path) -> None:
    write_adapter("base")
    assert "base model's" in catalog(tmp_path, base).refused()[0].reason


def test_adapters_above_the_bound_are_refused(
    write_adapter: Write, base: BaseShape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "MAX_ADAPTERS", 1)
    write_adapter("a")
    write_adapter("b")
    found = catalog(tmp_path, base)
    assert [adapter.name for adapter in found.all()] == ["a"]
    assert [refused.name for refused in found.refused()] == ["b"]


def test_a_missing_folder_is_a_wrong_setting(base: BaseShape, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nowhere"):
        catalog(tmp_path / "nowhere", base)
