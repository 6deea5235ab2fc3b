"""Private folders lie where sockets and servers can use them, and outlive nobody."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from aloraserve.errors import StartError
from aloraserve_services.local import private_folder as module
from aloraserve_services.local.private_folder import MAX_ROOT_BYTES, private_folder, remove_leftovers

LONG = "/tmp/var/folders/vv/v17lwmd95j797hl_wlmt03cw0000gn/T"
HOLD = (
    "import sys\nfrom aloraserve_services.local.private_folder import private_folder\n"
    "with private_folder('held') as folder:\n    print(folder, flush=True)\n    sys.stdin.read()\n"
)


@pytest.mark.parametrize(
    "chosen", [LONG, "/tmp/my dir", '/tmp/a"b', "/tmp/it's", "/tmp/é", "/tmp/none", "relative", ""]
)
def test_an_odd_temporary_folder_is_not_used(monkeypatch: pytest.MonkeyPatch, chosen: str) -> None:
    monkeypatch.setenv("TMPDIR", chosen)
    with private_folder("test") as folder:
        assert folder.parent == Path("/tmp")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not folder.exists()


def test_a_fitting_temporary_folder_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Path("/tmp") / f"t{os.getpid()}"
    assert len(str(own)) <= MAX_ROOT_BYTES
    own.mkdir()
    monkeypatch.setenv("TMPDIR", f"{own}/")
    with private_folder("test") as folder:
        assert folder.parent == own
    own.rmdir()


def test_where_nothing_can_be_written_the_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/proc")
    monkeypatch.setattr(module, "_OTHER_ROOTS", ("/proc/1",))
    with pytest.raises(StartError, match="TMPDIR is '/proc'; it may name another one"), private_folder("test"):
        pass


def test_a_killed_process_s_folder_is_removed_and_a_running_one_s_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    holders = [
        subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    killed, running = (Path(holder.stdout.readline().strip()) for holder in holders if holder.stdout)
    (killed / "deep").mkdir()
    holders[0].send_signal(signal.SIGKILL)
    holders[0].wait(10)
    assert killed.is_dir()
    remove_leftovers()
    assert (killed.exists(), running.is_dir()) == (False, True)
    for holder in holders:
        holder.communicate("", timeout=10)
    assert not running.exists()


def test_a_stranger_s_folder_and_a_link_are_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "_OTHER_ROOTS", (str(tmp_path),))
    monkeypatch.setenv("TMPDIR", "")
    (tmp_path / "alora-made-just-now").mkdir()
    target = tmp_path / "target"
    target.mkdir()
    (target / ".owner").touch()
    (tmp_path / "alora-link").symlink_to(target)
    remove_leftovers()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alora-link", "alora-made-just-now", "target"]


def test_a_folder_that_another_start_removes_before_it_is_locked_is_made_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", "")
    monkeypatch.setattr(module, "_OTHER_ROOTS", (str(tmp_path),))
    real, removed = fcntl.flock, []

    def flock(file: IO[bytes], operation: int) -> None:
        if operation == fcntl.LOCK_EX and not removed:
            removed.append(Path(str(file.name)).parent)
            remove_leftovers()
        real(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with private_folder("test") as folder:
        assert removed
        assert not removed[0].exists()
        assert folder.is_dir()
        remove_leftovers()
        assert folder.is_dir()


def test_a_folder_is_locked_while_it_is_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", "")
    monkeypatch.setattr(module, "_OTHER_ROOTS", (str(tmp_path),))
    left = tmp_path / "alora-left"
    left.mkdir()
    (left / ".owner").touch()
    real = shutil.rmtree

    def rmtree(path: str, **options: bool) -> None:
        with (left / ".owner").open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        real(path, **options)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    remove_leftovers()
    assert not left.exists()


def test_what_runs_in_a_folder_that_is_left_is_ended_and_a_shell_in_it_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Ray's agents have no parent any more then, nor an environment that says whose they are."""
    monkeypatch.setenv("TMPDIR", "")
    monkeypatch.setattr(module, "_OTHER_ROOTS", (str(tmp_path),))
    left = tmp_path / "alora-ray-left"
    left.mkdir()
    (left / ".owner").touch()
    agent, shell, elsewhere = (
        subprocess.Popen([name, "-c", "import signal; signal.pause()"], executable=sys.executable, cwd=folder, env={})
        for name, folder in (("ray-dashboard-agent", left), ("shell", left), ("ray-dashboard-agent", tmp_path))
    )
    try:
        remove_leftovers()
        agent.wait(10)
        assert (shell.poll(), elsewhere.poll()) == (None, None)
    finally:
        for process in (agent, shell, elsewhere):
            process.kill()
            process.wait(10)
