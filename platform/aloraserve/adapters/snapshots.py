"""Copies of adapters by content: what engines load, whatever becomes of the folder that it came from."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from aloraserve.adapters.peft_files import AdapterFiles
from aloraserve.errors import InvalidAdapterError

UNUSED_S = 600.0
"""How long a snapshot that no process uses stays. Users say so each :data:`USE_EVERY_S`."""
USE_EVERY_S = 60.0
_LOCK = ".lock"


class SnapshotStore:
    """One subfolder a digest, written once and never changed. For any number of processes of one machine.

    An engine may drop an adapter and load it again from its path while requests wait for it: with a path into a folder
    that people edit, it would load other weights under the same id.

    Args:
        root: made if it is not there.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()

    def put(self, digest: str, files: AdapterFiles) -> Path:
        """Return the folder with these files, written and read back now if it is not there yet.

        Raises:
            InvalidAdapterError: it cannot be written, or the files are not that content any more.
        """
        target = self._root / digest
        try:
            with self._locked():
                if _is_whole(target, files):
                    os.utime(target)
                else:
                    self._write(target, digest, files)
        except OSError as error:
            raise InvalidAdapterError(f"it cannot be copied into the state folder: {error.strerror}") from error
        return target

    def get(self, digest: str) -> Path | None:
        """Return the folder of a digest if there is one, and use it."""
        target = self._root / digest
        with contextlib.suppress(OSError), self._locked():
            os.utime(target)
            return target
        return None

    def use(self, digests: Collection[str]) -> None:
        """Say that these are in use, and remove what nobody has used for :data:`UNUSED_S`."""
        with contextlib.suppress(OSError), self._locked():
            for digest in digests:
                with contextlib.suppress(FileNotFoundError):
                    os.utime(self._root / digest)
            oldest = time.time() - UNUSED_S
            for entry in list(os.scandir(self._root)):
                if entry.is_dir(follow_symlinks=False) and entry.stat().st_mtime < oldest:
                    shutil.rmtree(entry.path, ignore_errors=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._root.mkdir(parents=True, exist_ok=True)
        with (self._root / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _write(self, target: Path, digest: str, files: AdapterFiles) -> None:
        """Write beside the target and rename: what has its name is whole, also after a crash."""
        folder = Path(tempfile.mkdtemp(prefix=".new-", dir=self._root))
        try:
            files.copy_to(folder, digest)
            shutil.rmtree(target, ignore_errors=True)
            folder.rename(target)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def _is_whole(target: Path, files: AdapterFiles) -> bool:
    """Whether all files are there at their length; the content was compared before they got their place."""
    try:
        return all((target / name).stat().st_size == size for name, size in files.sizes.items())
    except OSError:
        return False
