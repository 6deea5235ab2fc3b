"""The store of adapters by content: what engines load, whatever becomes of the place that it came from."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path

from aloraserve.adapters.peft_files import AdapterFiles, read_files
from aloraserve.errors import InvalidAdapterError

UNUSED_S = 600.0
"""How long content that nothing refers to stays. Users say that they use it each :data:`USE_EVERY_S`."""
USE_EVERY_S = 60.0
LEFT_S = 86400.0
"""How long a reference stays that no adapter has: a registration that was killed left it."""
STAGED_S = 3600.0
"""How long a folder stays that somebody began to fill and no longer writes into."""
_STAGED, _REMOVED, _REFERENCES, _CLOCK = ".new-", ".old-", ".references", ".clock"
_READ_ONLY = 0o444


class AdapterStore:
    """One subfolder a digest, written once and never changed. For any number of processes, fleets and machines.

    It has no locks, which a shared volume may not have either: content is written beside its place and renamed into
    it, and of two who put the same at once one wins. Times are the volume's own. An engine may drop an adapter and
    load it again from its path while requests wait for it: with a path into a folder that people edit, it would load
    other weights under the same id.

    Content stays while a process uses it (:meth:`use`) or a fleet refers to it (:meth:`keep` until :meth:`release`),
    also while no process of the fleet runs.

    Args:
        root: made if it is not there; may be on a volume that several machines share.
        fleet: whose references :meth:`keep` and :meth:`release` are.
    """

    def __init__(self, root: Path, fleet: str = "default") -> None:
        self._root = root.absolute()
        self._fleet = fleet

    def stage(self) -> Path:
        """Return a new empty folder to fill and then :meth:`keep` or :meth:`discard`.

        Raises:
            OSError: it cannot be made.
        """
        folder = self._root / f"{_STAGED}{uuid.uuid4().hex}"
        # Others of a shared volume read it, unlike what tempfile makes.
        folder.mkdir(parents=True)
        return folder

    def discard(self, folder: Path) -> None:
        """Remove a staged folder, if it is still there."""
        shutil.rmtree(folder, ignore_errors=True)

    def put(self, digest: str, files: AdapterFiles) -> Path:
        """Return the folder with these files: the one that is there, or a copy that was read back.

        Raises:
            InvalidAdapterError: it cannot be written, or the files are not that content any more.
        """
        with _written():
            if _is_whole(target := self._root / digest, files):
                os.utime(target)
                return target
            folder = self.stage()
            try:
                files.copy_to(folder, digest)
                return self._place(folder, digest)
            finally:
                self.discard(folder)

    def keep(self, digest: str, folder: Path) -> Path:
        """Move a staged folder to its place, nothing copied, and refer to it; return the place.

        Args:
            digest: that the content has to have.
            folder: staged here. It is gone afterwards, unless this raises.

        Raises:
            InvalidAdapterError: it is not that content, or cannot be moved.
        """
        with _written():
            files = read_files(folder)
            if files.digest != digest:
                raise InvalidAdapterError("its files changed after they were checked")
            # Before the content has its place: a reference to nothing does no harm.
            self.refer(digest)
            if _is_whole(target := self._root / digest, files):
                os.utime(target)
            else:
                self._place(folder, digest)
            self.discard(folder)
            return target

    def refer(self, digest: str) -> None:
        """Have a content stay until :meth:`release`, also while no process uses it.

        Raises:
            OSError: that cannot be noted.
        """
        mark = self._root / _REFERENCES / self._fleet / digest
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()

    def release(self, digest: str) -> None:
        """Refer to a content no more; it is removed once no process uses it and no other fleet refers to it."""
        with contextlib.suppress(FileNotFoundError):
            (self._root / _REFERENCES / self._fleet / digest).unlink()

    def refer_only(self, digests: Collection[str]) -> None:
        """Refer to all of these, and to nothing else that was referred to longer than :data:`LEFT_S` ago.

        A registration that is killed, or loses the catalog, leaves a reference; of two of one content, the one that
        fails may release what the other one keeps.
        """
        with contextlib.suppress(OSError):
            oldest = self._now() - LEFT_S
            marks = {mark.name: mark.stat().st_mtime for mark in (self._root / _REFERENCES / self._fleet).glob("*")}
            for digest in set(digests) - marks.keys():
                self.refer(digest)
            for digest, referred_at in marks.items():
                if digest not in digests and referred_at < oldest:
                    self.release(digest)

    def has(self, digest: str) -> bool:
        """Whether there is content with this digest."""
        return (self._root / digest).is_dir()

    def get(self, digest: str) -> Path | None:
        """Return the folder of a digest if there is one, and use it."""
        target = self._root / digest
        with contextlib.suppress(OSError):
            os.utime(target)
            return target
        return None

    def use(self, digests: Collection[str]) -> None:
        """Say that these are in use, and remove what nothing has used for :data:`UNUSED_S` and nothing refers to."""
        for digest in digests:
            with contextlib.suppress(OSError):
                os.utime(self._root / digest)
        with contextlib.suppress(OSError):
            self._collect()

    def _collect(self) -> None:
        now, referred = self._now(), self._referred()
        for entry in list(os.scandir(self._root)):
            if entry.name in referred or entry.name in (_REFERENCES, _CLOCK) or not entry.is_dir(follow_symlinks=False):
                continue
            with contextlib.suppress(OSError):
                if entry.name.startswith((_STAGED, _REMOVED)):
                    if _last_written(entry.path) < now - STAGED_S:
                        shutil.rmtree(entry.path, ignore_errors=True)
                elif entry.stat().st_mtime < now - UNUSED_S:
                    self._remove(Path(entry.path), now)

    def _remove(self, target: Path, now: float) -> None:
        """Remove a content, unless somebody began to use or refer to it meanwhile."""
        aside = self._set_aside(target)
        if aside.stat().st_mtime >= now - UNUSED_S or target.name in self._referred():
            with contextlib.suppress(OSError):
                aside.rename(target)
        shutil.rmtree(aside, ignore_errors=True)

    def _place(self, folder: Path, digest: str) -> Path:
        """Rename a folder that is whole to its place; what has that name is whole, also after a crash."""
        target, files = self._root / digest, read_files(folder)
        for name in files.sizes:
            (folder / name).chmod(_READ_ONLY)
        _sync(folder)
        while True:
            try:
                folder.rename(target)
                break
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            if _is_whole(target, files):
                # Somebody else put the same meanwhile.
                os.utime(target)
                break
            # A file was lost there.
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self._set_aside(target), ignore_errors=True)
        _sync(self._root)
        return target

    def _set_aside(self, target: Path) -> Path:
        return target.rename(self._root / f"{_REMOVED}{uuid.uuid4().hex}")

    def _referred(self) -> set[str]:
        """Return what any fleet refers to."""
        return {mark.name for mark in (self._root / _REFERENCES).glob("*/*")}

    def _now(self) -> float:
        """Return the time of the volume, whose server's clock may be another than this machine's."""
        clock = self._root / _CLOCK
        clock.touch()
        return clock.stat().st_mtime


@contextlib.contextmanager
def _written() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidAdapterError(f"it cannot be written to the adapter store: {error.strerror}") from error


def _is_whole(target: Path, files: AdapterFiles) -> bool:
    """Whether all files are there at their length; the content was compared before they got their place."""
    try:
        return all((target / name).stat().st_size == size for name, size in files.sizes.items())
    except OSError:
        return False


def _last_written(folder: str) -> float:
    return max(os.stat(path).st_mtime for path in (folder, *(entry.path for entry in os.scandir(folder))))


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
