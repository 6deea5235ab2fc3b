"""The files of a PEFT adapter: its content, whatever else lies beside them.

Weights are read from safetensors alone: a pickle can run code when it is loaded, so none ever is.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from aloraserve.adapters.file_access import changed, chunks, failed, open_file, read_file
from aloraserve.adapters.intrinsics import IO_YAML_FILE
from aloraserve.adapters.problems import AdapterFileError, Problem, shown
from aloraserve.errors import InvalidAdapterError

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
SIDECAR_FILE = "aloraserve.json"

REQUIRED_FILES = (CONFIG_FILE, WEIGHTS_FILE)
OPTIONAL_FILES = (SIDECAR_FILE, IO_YAML_FILE)
MAX_TEXT_BYTES = 1024 * 1024
MAX_WEIGHTS_BYTES = 2 * 1024**3

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class AdapterFiles:
    """Which of an adapter's files are in a folder. Their content is read when it is asked for, in pieces.

    Args:
        folder: where they lie.
        sizes: bytes of each file that there is, by name; required ones first.
    """

    folder: Path
    sizes: Mapping[str, int]

    @property
    def size_bytes(self) -> int:
        """The bytes of all files."""
        return sum(self.sizes.values())

    @cached_property
    def digest(self) -> str:
        """The hex SHA-256 of the content, computed once.

        Of an adapter without optional files it is that of the config's length (8 bytes), the config and the weights;
        with some, that of this digest and of each optional file's name, length and content.

        Raises:
            AdapterFileError: a file cannot be read.
        """
        core = hashlib.sha256(self.sizes[CONFIG_FILE].to_bytes(8, "big"))
        for name in REQUIRED_FILES:
            self._update(core, name)
        optional = [name for name in OPTIONAL_FILES if name in self.sizes]
        if not optional:
            return core.hexdigest()
        whole = hashlib.sha256(b"aloraserve adapter\0" + core.digest())
        for name in optional:
            whole.update(name.encode() + b"\0" + self.sizes[name].to_bytes(8, "big"))
            self._update(whole, name)
        return whole.hexdigest()

    def open(self, name: str) -> BinaryIO:
        """Open one of the files.

        Raises:
            AdapterFileError: it is not there any more, or cannot be used.
        """
        return open_file(self.folder, name, max_bytes(name))

    def read(self, name: str) -> bytes:
        """Return the content of one of the short files: any but the weights.

        Raises:
            AdapterFileError: it is not there any more, or cannot be used.
        """
        return read_file(self.folder, name, max_bytes(name))

    def copy_to(self, folder: Path, digest: str) -> AdapterFiles:
        """Copy the files into an empty folder, read them back, and return them as they are there.

        Args:
            folder: where to.
            digest: of the content that is wanted.

        Raises:
            InvalidAdapterError: a file cannot be read, or the copy is not that content: it changed meanwhile.
            OSError: the copy cannot be written.
        """
        for name in self.sizes:
            with (folder / name).open("wb") as copy:
                for chunk in self._content(name):
                    copy.write(chunk)
                copy.flush()
                os.fsync(copy.fileno())
        copied = AdapterFiles(folder, self.sizes)
        if copied.digest != digest:
            raise InvalidAdapterError("its files changed while they were copied") from changed()
        return copied

    def _update(self, digest: hashlib._Hash, name: str) -> None:
        for chunk in self._content(name):
            digest.update(chunk)

    def _content(self, name: str) -> Iterator[bytes]:
        """Yield a file's content; it has to have the size that it had."""
        left = self.sizes[name]
        with self.open(name) as file:
            for chunk in chunks(file, name):
                left -= len(chunk)
                if left < 0:
                    break
                yield chunk
        if left:
            raise failed(name, changed()) from changed()


@dataclass(frozen=True, slots=True)
class FoundFiles:
    """Result of a look into a folder.

    Args:
        files: the usable ones.
        problems: of the others.
        cause: the operating system's error behind a problem: another time may do better.
    """

    files: AdapterFiles
    problems: tuple[Problem, ...] = ()
    cause: OSError | None = None


def find_files(folder: Path) -> FoundFiles:
    """Return what there is of an adapter's files in ``folder``, and the problems of those that cannot be used."""
    sizes: dict[str, int] = {}
    problems: list[Problem] = []
    cause: OSError | None = None
    for name in (*REQUIRED_FILES, *OPTIONAL_FILES):
        try:
            with open_file(folder, name, max_bytes(name)) as file:
                sizes[name] = os.fstat(file.fileno()).st_size
        except AdapterFileError as error:
            if name in OPTIONAL_FILES and not os.path.lexists(folder / name):
                continue
            problems.append(error.problem)
            cause = error.__cause__ if isinstance(error.__cause__, OSError) else cause
    return FoundFiles(AdapterFiles(folder, sizes), tuple(problems), cause)


def read_files(folder: Path) -> AdapterFiles:
    """Return an adapter's files in ``folder``.

    Raises:
        InvalidAdapterError: one is missing or cannot be used; says which and why.
    """
    found = find_files(folder)
    if found.problems:
        raise InvalidAdapterError(found.problems[0].text) from found.cause
    return found.files


def max_bytes(name: str) -> int:
    """Return the most bytes that are accepted of one of an adapter's files."""
    return MAX_WEIGHTS_BYTES if name == WEIGHTS_FILE else MAX_TEXT_BYTES


def check_name(name: str) -> None:
    """Raise InvalidAdapterError unless ``name`` may be served."""
    if not _NAME.fullmatch(name):
        rule = "1 to 64 letters, digits, '.', '_' and '-', the first a letter or digit"
        raise InvalidAdapterError(f"the adapter's name is {shown(name)}; {rule} are accepted")
