"""Paths in variables and files, where no shell has expanded them, and users without a home folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from aloraserve.errors import SettingsError
from aloraserve.settings import Settings, load_settings

Write = Callable[[str | bytes], Path]

PATHS = sorted(
    name for name, field in Settings.model_fields.items() if Path in (field.annotation, *get_args(field.annotation))
)
TLS = {"tls_certificate": "/c", "tls_key": "/k"}


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "my home"))
    return tmp_path / "my home"


@pytest.mark.parametrize("name", [*PATHS, "model", "calibration"])
def test_the_home_folder_is_meant_in_every_path(
    monkeypatch: pytest.MonkeyPatch, write: Write, home: Path, name: str
) -> None:
    tls = TLS if name.startswith("tls") else {}
    assert Path(getattr(load_settings(**{**tls, name: "~/it"}), name)) == home / "it"
    assert (
        Path(getattr(load_settings(write(f"{name}: ~/it"), **{n: v for n, v in tls.items() if n != name}), name))
        == home / "it"
    )
    monkeypatch.setenv(f"ALORASERVE_{name.upper()}", "~root/it")
    assert (
        Path(getattr(load_settings(**{n: v for n, v in tls.items() if n != name}), name))
        == Path("~root/it").expanduser()
    )


def test_the_home_folder_is_meant_in_the_file_s_own_path_and_in_sources(home: Path) -> None:
    home.mkdir()
    (home / "a.yaml").write_text("adapter_sources: [~/adapters, s3://bucket/x]")
    assert load_settings(Path("~/a.yaml")).adapter_sources == (str(home / "adapters"), "s3://bucket/x")


@pytest.mark.parametrize("path", ["~nobody-has-this-name/x", "", "a\0b"])
def test_a_path_that_is_none_is_refused_by_name(path: str) -> None:
    with pytest.raises(SettingsError, match="flag: state_dir is "):
        load_settings(state_dir=path)
    with pytest.raises(SettingsError, match="config is "):
        load_settings(Path("~nobody-has-this-name/x"))


@pytest.mark.parametrize(
    "path", ["/tmp/my adapters", '/tmp/it\'s "mine"', "/tmp/caf\u00e9", "/tmp/two\nlines", "/tmp/a#b?c"]
)
def test_odd_paths_are_taken_as_they_are(path: str) -> None:
    settings = load_settings(state_dir=path, adapters_dir=path)
    assert str(settings.state_dir) == str(settings.adapters_dir) == path


def test_a_user_without_a_home_folder_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(_: object) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", classmethod(homeless))
    with pytest.raises(
        SettingsError, match=r"state_dir is not set, .*--state-dir, ALORASERVE_STATE_DIR, XDG_STATE_HOME"
    ):
        load_settings()
    assert load_settings(state_dir="/srv/state").state_dir == Path("/srv/state")
