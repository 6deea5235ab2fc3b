"""The run file names a platform only while that very process lives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from aloraserve.errors import SettingsError, StartError
from aloraserve_services.local import run_file
from aloraserve_services.local.run_file import Running, make_state_folder

URL = "http://127.0.0.1:8000"
HOLD = """
import sys
from pathlib import Path
from aloraserve_services.local import run_file
with run_file.held(Path(sys.argv[1]), "http://127.0.0.1:9999"):
    print(flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other_platform(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that owns the folder until its input is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "\n"
    yield process
    process.kill()
    process.communicate()


def write(folder: Path, **content: object) -> None:
    mine = {"pid": os.getpid(), "created": psutil.Process().create_time(), "url": URL, "ready": True}
    run_file.path_in(folder).write_text(json.dumps(mine | content))


def test_a_platform_is_there_from_its_start_and_ready_when_it_says_so(tmp_path: Path) -> None:
    assert run_file.read(tmp_path) is None
    with run_file.held(tmp_path, URL):
        starting = run_file.read(tmp_path)
        assert starting is not None
        assert (starting.pid, starting.url, starting.ready) == (os.getpid(), URL, False)
        assert starting.process() == psutil.Process()
        run_file.mark_ready(tmp_path, URL)
        assert run_file.read(tmp_path) == Running(os.getpid(), starting.created, URL, ready=True)
    assert run_file.read(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_no_run_file(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="no Redis"), run_file.held(tmp_path, URL):
        raise StartError("no Redis")
    assert list(tmp_path.iterdir()) == []


def test_the_state_folder_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with run_file.held(folder, URL):
        assert run_file.read(folder) is not None


def test_a_second_platform_in_the_folder_is_refused_with_the_first_s_address(
    tmp_path: Path, other_platform: subprocess.Popen[str]
) -> None:
    with (
        pytest.raises(StartError, match=rf"pid {other_platform.pid}, http://127\.0\.0\.1:9999") as caught,
        run_file.held(tmp_path, URL),
    ):
        pass
    assert "--state-dir" in caught.value.message
    running = run_file.read(tmp_path)
    assert running is not None
    assert running.pid == other_platform.pid


def test_a_platform_that_was_killed_is_not_there_any_more(
    tmp_path: Path, other_platform: subprocess.Popen[str]
) -> None:
    running = run_file.read(tmp_path)
    assert running is not None
    other_platform.kill()
    psutil.wait_procs([psutil.Process(other_platform.pid)])
    assert run_file.path_in(tmp_path).exists()
    assert run_file.read(tmp_path) is None
    assert running.process() is None
    with run_file.held(tmp_path, URL):
        assert run_file.read(tmp_path) == Running(os.getpid(), psutil.Process().create_time(), URL)


def test_a_platform_that_ended_but_whose_status_nobody_read_is_not_there(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = psutil.Process(child.pid)
    write(tmp_path, pid=child.pid, created=process.create_time())
    assert run_file.read(tmp_path) is not None
    assert child.stdin is not None
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process.status() == psutil.STATUS_ZOMBIE
    assert run_file.read(tmp_path) is None
    child.wait()


def test_another_process_with_the_same_id_is_not_taken_for_it(tmp_path: Path) -> None:
    write(tmp_path)
    assert run_file.read(tmp_path) is not None
    write(tmp_path, created=psutil.Process().create_time() - 60)
    assert run_file.read(tmp_path) is None


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '"x"', "{}", '{"pid": 1}', '{"pid": "x", "created": 0, "url": "", "ready": 1}'],
)
def test_a_broken_file_is_not_a_platform_and_is_replaced(tmp_path: Path, content: str) -> None:
    run_file.path_in(tmp_path).write_text(content)
    assert run_file.read(tmp_path) is None
    with run_file.held(tmp_path, URL):
        assert run_file.read(tmp_path) is not None


@pytest.mark.parametrize("pid", [0, 2**22 + 1, 10**20])
def test_an_id_that_no_process_has_is_not_a_platform(tmp_path: Path, pid: int) -> None:
    write(tmp_path, pid=pid)
    assert run_file.read(tmp_path) is None


def test_bytes_that_are_not_text_are_not_a_platform(tmp_path: Path) -> None:
    run_file.path_in(tmp_path).write_bytes(b"\xff\xfe")
    assert run_file.read(tmp_path) is None


@pytest.mark.parametrize("pid", ["-1", "1e400", "99999999999999999999"])
def test_a_pid_that_no_process_can_have_is_not_a_platform(tmp_path: Path, pid: str) -> None:
    run_file.path_in(tmp_path).write_text(f'{{"pid": {pid}, "created": 1, "url": "{URL}", "ready": true}}')
    assert run_file.read(tmp_path) is None


@pytest.mark.parametrize("folder", ["/proc/aloraserve", "/dev/null/x"])
def test_a_state_folder_that_cannot_be_written_is_named(folder: str) -> None:
    with pytest.raises(SettingsError, match=f"state_dir is '{folder}': nothing can be written there .*--state-dir"):
        make_state_folder(Path(folder))


def test_restarts_of_the_embedded_redis_are_counted(tmp_path: Path) -> None:
    run_file.note_redis_restart(tmp_path)
    with run_file.held(tmp_path, URL):
        run_file.mark_ready(tmp_path, URL)
        for _ in range(2):
            run_file.note_redis_restart(tmp_path)
        running = run_file.running_in(tmp_path)
        assert (running.redis_restarts, running.ready) == (2, True)
        assert running.redis_restarted_at > running.created
