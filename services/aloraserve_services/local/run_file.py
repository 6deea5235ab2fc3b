"""Which platform runs in a state folder, for ``status`` and ``down``."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from aloraserve.errors import SettingsError, StartError


@dataclass(frozen=True, slots=True)
class Running:
    """A platform that was started with ``aloraserve up``.

    Args:
        pid: its process.
        created: when that process started, so that another one with the same pid is not taken for it.
        url: of its HTTP API.
        ready: whether it can take calls.
        drain_timeout_s: that its running answers have when it is stopped, and what goes before.
        certificate: file of the certificate that it serves TLS with, empty without TLS.
        embedded_redis: URL of its embedded Redis, empty with another one.
        redis_restarts: how often that had ended and was started again.
        redis_restarted_at: when last, in seconds since 1970.
    """

    pid: int
    created: float
    url: str
    ready: bool = False
    drain_timeout_s: float = 0.0
    certificate: str = ""
    embedded_redis: str = ""
    redis_restarts: int = 0
    redis_restarted_at: float = 0.0

    def process(self) -> psutil.Process | None:
        """Return the process if it still runs."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.Error, ValueError, OverflowError):
            return None
        return process if same else None


def path_in(state_dir: Path) -> Path:
    """Return the run file's path."""
    return state_dir / "run.json"


def read(state_dir: Path) -> Running | None:
    """Return the platform that runs in ``state_dir``, None if there is none (any more)."""
    try:
        content = json.loads(path_in(state_dir).read_text())
        running = Running(
            int(content["pid"]),
            float(content["created"]),
            str(content["url"]),
            bool(content["ready"]),
            float(content.get("drain_timeout_s", 0)),
            str(content.get("certificate", "")),
            str(content.get("embedded_redis", "")),
            int(content.get("redis_restarts", 0)),
            float(content.get("redis_restarted_at", 0)),
        )
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
    return running if running.process() else None


def running_in(state_dir: Path) -> Running:
    """Return the platform that runs in ``state_dir``.

    Raises:
        StartError: none runs there.
    """
    running = read(state_dir)
    if running is None:
        raise StartError(f"no platform runs in {state_dir}: start one with `aloraserve up`")
    return running


def make_state_folder(state_dir: Path) -> None:
    """Make the state folder, if it is not there.

    Raises:
        SettingsError: it cannot be made, or nothing can be written into it.
    """
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=state_dir):
            pass
    except OSError as error:
        raise SettingsError(
            f"state_dir is {str(state_dir)!r}: nothing can be written there ({error.strerror}); choose another folder "
            "with --state-dir or ALORASERVE_STATE_DIR"
        ) from None


@contextlib.contextmanager
def held(state_dir: Path, url: str) -> Iterator[None]:
    """Own the run file for the time of the context; :func:`mark_ready` says when calls can come.

    Raises:
        SettingsError: see :func:`make_state_folder`.
        StartError: another platform runs in this folder.
    """
    make_state_folder(state_dir)
    with _locked(state_dir):
        _write(state_dir, Running(os.getpid(), psutil.Process().create_time(), url))
        try:
            yield
        finally:
            path_in(state_dir).unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(state_dir: Path) -> Iterator[None]:
    """Own a state folder for the time of the context, against one that starts in the same moment too."""
    folder = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _lock(folder, state_dir)
        yield
    finally:
        os.close(folder)


def _lock(folder: int, state_dir: Path) -> None:
    is_locked = True
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        is_locked = False
    other = read(state_dir)
    if not is_locked or (other is not None and other.pid != os.getpid()):
        shown = f"(pid {other.pid}, {other.url})" if other else "or starts"
        raise StartError(
            f"a platform runs already {shown}: stop it with `aloraserve down`, or give this one a state folder of its "
            "own with --state-dir"
        )


def mark_ready(
    state_dir: Path,
    url: str,
    drain_timeout_s: float = 0.0,
    certificate: Path | None = None,
    embedded_redis: str = "",
) -> None:
    """Note that the platform takes calls, and what its other fields are; see :class:`Running`."""
    created, file = psutil.Process().create_time(), str(certificate or "")
    _write(state_dir, Running(os.getpid(), created, url, True, drain_timeout_s, file, embedded_redis))


def note_redis_restart(state_dir: Path) -> None:
    """Note that the embedded Redis of the platform that runs here had ended and was started again."""
    running = read(state_dir)
    if running is not None:
        restarts = running.redis_restarts + 1
        _write(state_dir, replace(running, redis_restarts=restarts, redis_restarted_at=time.time()))


def _write(state_dir: Path, running: Running) -> None:
    temporary = path_in(state_dir).with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(asdict(running)))
    temporary.replace(path_in(state_dir))
