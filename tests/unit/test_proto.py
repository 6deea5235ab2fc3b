"""The ``.proto`` files: style, compatibility with what was released, and that the code beside them is theirs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).parents[2]
SOURCES = sorted((TOP / "platform/aloraserve/v1").glob("*.proto"))
BUF = Path(sys.executable).with_name("buf")


def buf(*arguments: str, cwd: Path = TOP) -> str:
    """Return what buf finds."""
    done = subprocess.run([str(BUF), *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_the_files_keep_buf_s_rules() -> None:
    assert buf("lint") == ""


def test_no_change_breaks_the_clients_of_a_release() -> None:
    assert buf("breaking", "--against", "platform/aloraserve/v1/released.binpb") == ""


def test_a_change_that_breaks_clients_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "platform/aloraserve/v1"
    folder.mkdir(parents=True)
    for source in SOURCES:
        (folder / source.name).write_text(source.read_text().replace("repeated string stop = 6;", ""))
    (tmp_path / "buf.yaml").write_text((TOP / "buf.yaml").read_text())
    found = buf("breaking", "--against", str(TOP / "platform/aloraserve/v1/released.binpb"), cwd=tmp_path)
    assert 'Previously present field "6" with name "stop"' in found


def test_the_generated_code_is_that_of_the_files(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", "platform"]
    plugin = f"--plugin=protoc-gen-mypy={Path(sys.executable).with_name('protoc-gen-mypy')}"
    outputs = [f"--python_out={tmp_path}", plugin, f"--mypy_out=quiet:{tmp_path}"]
    subprocess.run([*command, *outputs, *(str(source.relative_to(TOP)) for source in SOURCES)], cwd=TOP, check=True)
    made = sorted((tmp_path / "aloraserve/v1").iterdir())
    assert len(made) == 2 * len(SOURCES)
    stale = [file.name for file in made if (SOURCES[0].parent / file.name).read_text() != file.read_text()]
    assert stale == [], "run `make proto`"
