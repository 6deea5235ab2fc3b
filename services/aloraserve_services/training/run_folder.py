"""The folder of a training that is under way, beside the one that it will write."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aloraserve.errors import SettingsError, StartError
from aloraserve_services.training.checkpoints import Checkpoints

_FACTS_FILE = "run.json"


class RunFolder:
    """Holds what a training needs to go on after it was ended; removed once its adapter is written.

    Args:
        out: the folder that the adapter is written to.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.path = out.parent / f".{out.name}.training"
        self.checkpoints = Checkpoints(self.path)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep other trainings away from the folder for the time of the context.

        Raises:
            StartError: another one is under way, or the folder cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path.parent / f"{self.path.name}.lock").open("w")
        except OSError as error:
            raise StartError(f"{self.path.parent} cannot be written: {error.strerror}") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise StartError(f"another training writes {self.out}; wait for it, or choose another --out") from None
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    # Nothing has begun: the spec was not accepted.
                    self.path.rmdir()
                Path(file.name).unlink(missing_ok=True)

    def begin(self, digest: str, *, resume: bool, replace: bool) -> Path | None:
        """Make the folder ready; return the checkpoint to go on from, None to begin.

        Args:
            digest: of all that decides the result.
            resume: whether to go on.
            replace: whether what is there may be replaced.

        Raises:
            SettingsError: what is there is neither to be replaced nor to be gone on with.
        """
        facts = self._facts()
        if self.out.exists() and not replace and not (resume and facts.get("stopped")):
            raise SettingsError(f"{self.out} is there already; --replace replaces it, --out writes elsewhere")
        latest = self.checkpoints.latest
        if resume:
            if not facts:
                raise SettingsError(
                    f"there is no training of {self.out} to go on with; leave --resume out to begin one"
                )
            if facts.get("digest") != digest:
                raise SettingsError(
                    f"the training of {self.out} was begun with another spec, other data or another base model; "
                    "--replace begins again"
                )
            return latest
        if latest is not None and not replace:
            raise SettingsError(
                f"a training of {self.out} was ended at {latest.name}; --resume goes on from there, --replace begins "
                "again"
            )
        self._clear()
        self._write({"digest": digest, "stopped": False})
        return None

    def mark_stopped(self) -> None:
        """Note that the adapter was written before its training was done: going on may replace it."""
        self._write(self._facts() | {"stopped": True})

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _clear(self) -> None:
        for path in self.path.iterdir():
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()

    def _facts(self) -> dict[str, Any]:
        try:
            found = json.loads((self.path / _FACTS_FILE).read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self, facts: dict[str, Any]) -> None:
        work = self.path / f".{_FACTS_FILE}"
        work.write_text(json.dumps(facts))
        work.replace(self.path / _FACTS_FILE)
