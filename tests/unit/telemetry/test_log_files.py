"""Log files: whoever's words, private, bounded, and kept."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

from aloraserve.telemetry.log_files import (
    MAX_KEPT_BYTES,
    MAX_KEPT_FILES,
    PREVIOUS,
    begin_log_folder,
    keep_ends,
    log_file,
    open_log,
    shorten,
)

SPEAK = """
import os, subprocess, sys
from pathlib import Path
from aloraserve.telemetry.log_files import write_output_to
write_output_to(Path(sys.argv[1]))
print("of Python", flush=True)
print("of its errors", file=sys.stderr)
os.write(2, b"of a library\\n")
subprocess.run(["echo", "of a child"])
os.abort()
"""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_everything_a_process_and_its_children_write_is_there_after_it_was_killed(tmp_path: Path) -> None:
    file = log_file(tmp_path / "logs", "engine-0")
    done = subprocess.run([sys.executable, "-c", SPEAK, str(file)], capture_output=True, check=False)
    assert done.returncode < 0
    assert (done.stdout, done.stderr) == (b"", b"")
    assert sorted(file.read_text().splitlines()) == ["of Python", "of a child", "of a library", "of its errors"]
    assert (mode(file.parent), mode(file)) == (0o700, 0o600)


def test_a_process_that_starts_again_goes_on_in_its_file(tmp_path: Path) -> None:
    for word in (b"one\n", b"two\n"):
        with os.fdopen(open_log(tmp_path / "gateway-0.log"), "wb") as opened:
            opened.write(word)
    assert (tmp_path / "gateway-0.log").read_text() == "one\ntwo\n"


def test_a_file_has_a_bound_and_its_writer_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "engine-0.log"
    with os.fdopen(open_log(file), "wb", buffering=0) as writer:
        for number in range(5):
            writer.write(b"%d" % number * 60)
            shorten(file, max_bytes=100)
        writer.write(b"end")
    assert file.read_bytes() == b"4" * 60 + b"end"
    assert (tmp_path / "engine-0.log.1").read_bytes() == b"2" * 60 + b"3" * 60
    assert {path.name for path in tmp_path.iterdir()} == {"engine-0.log", "engine-0.log.1"}
    assert {mode(path) for path in tmp_path.iterdir()} == {0o600}


def test_the_run_before_is_kept_and_no_other(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    for run in ("first", "second", "third"):
        begin_log_folder(folder)
        (folder / "engine-0.log").write_text(run)
    assert (folder / "engine-0.log").read_text() == "third"
    assert [path.read_text() for path in (folder / PREVIOUS).iterdir()] == ["second"]
    assert mode(folder) == mode(folder / PREVIOUS) == 0o700


def test_a_run_that_wrote_nothing_does_not_cost_the_one_before(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    begin_log_folder(folder)
    assert not folder.exists(), "nothing is made that nobody writes to"
    folder.mkdir()
    (folder / "engine-0.log").write_text("words")
    begin_log_folder(folder)
    begin_log_folder(folder)
    assert (folder / PREVIOUS / "engine-0.log").read_text() == "words"


def test_of_many_long_files_the_ends_of_the_newest_are_kept(tmp_path: Path) -> None:
    files = [tmp_path / f"raylet-{number}.err" for number in range(MAX_KEPT_FILES + 2)]
    for number, file in enumerate(files):
        file.write_bytes(b"x" * MAX_KEPT_BYTES + b"%d" % number)
        os.utime(file, (number, number))
    empty = tmp_path / "empty.out"
    empty.touch()
    keep_ends([*files, empty], tmp_path / "ray")
    kept = {path.name: path.read_bytes() for path in (tmp_path / "ray").iterdir()}
    assert set(kept) == {file.name for file in files[2:]}
    assert all(len(content) == MAX_KEPT_BYTES for content in kept.values())
    assert kept[files[-1].name].endswith(b"%d" % (len(files) - 1))
    assert mode(tmp_path / "ray" / files[-1].name) == 0o600
