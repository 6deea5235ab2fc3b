"""Keys and values of prefixes on disk: one safetensors file per block, memory-mapped, within a bound."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

_RECOUNT_CALLS = 64


class BlockShape(NamedTuple):
    """Sizes that all blocks of a store have in common.

    Args:
        layers: of the model.
        heads: of keys and values, per layer.
        key_size: numbers per key.
        value_size: numbers per value.
        dtype: torch's, of all of them.
    """

    layers: int
    heads: int
    key_size: int
    value_size: int
    dtype: Any

    def block_bytes(self, tokens: int) -> int:
        """Return how many bytes a block's keys and values take."""
        return self.layers * self.heads * tokens * (self.key_size + self.value_size) * int(self.dtype.itemsize)


class KeysValues(NamedTuple):
    """A block's keys and values: ``[layers, heads, tokens, size]``."""

    keys: Any
    values: Any


class PrefixStore:
    """Blocks in a folder. Several processes may use one at once: a file is written in one step and never changed.

    Args:
        folder: is made, readable by its owner alone: keys and values say much about the text that they are of.
        shape: of its blocks; a file of another is removed.
        max_bytes: that all files in the folder may take, those of other base models too; 0 keeps nothing.
        needed: keys of this training, which are not removed to make room.

    Attributes:
        rejected: files that were damaged or another's, and have been removed.
        write_error: why nothing is written any more; empty if it is.
    """

    def __init__(self, folder: Path, shape: BlockShape, max_bytes: int, needed: Collection[str]) -> None:
        self._folder = folder
        self._shape = shape
        self._max_bytes = max_bytes
        self._needed = needed
        self._verified: set[str] = set()
        self._calls = 0
        self._used = 0
        self._removable: list[tuple[float, int, Path]] = []
        self.rejected = 0
        self.write_error = ""
        if max_bytes:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def has(self, key: str) -> bool:
        """Say whether a block's file is there."""
        return self._path(key).is_file()

    def read(self, key: str, tokens: int) -> KeysValues | None:
        """Return a block, None if it is not there or not usable.

        Its pages are read from the file when they are used.

        Args:
            key: of the block.
            tokens: that it must have.
        """
        path = self._path(key)
        try:
            block = self._open(path, key, tokens)
        except FileNotFoundError:
            return None
        except Exception:  # noqa: BLE001 - a damaged file is one that is not there, however the library says it
            block = None
        if block is None:
            self.rejected += 1
            path.unlink(missing_ok=True)
        return block

    def has_room(self, size: int) -> bool:
        """Say whether that many bytes more are kept; what no training has used for longest makes room."""
        return not self.write_error and self._make_room(size)

    def write(self, key: str, block: KeysValues) -> bool:
        """Keep a block; say whether there was room."""
        size = self._shape.block_bytes(block.keys.shape[2])
        if not self.has_room(size):
            return False
        try:
            self._write_file(key, block)
        except OSError as error:
            # A full disk: the training goes on, only slower.
            self.write_error = error.strerror or type(error).__name__
            return False
        self._used += size
        return True

    def _open(self, path: Path, key: str, tokens: int) -> KeysValues | None:
        from safetensors import safe_open

        if not path.is_file():
            raise FileNotFoundError
        with safe_open(path, framework="pt") as file:
            block = KeysValues(file.get_tensor("keys"), file.get_tensor("values"))
            metadata = file.metadata() or {}
        shape = self._shape
        if [tuple(part.shape) for part in block] != [
            (shape.layers, shape.heads, tokens, size) for size in (shape.key_size, shape.value_size)
        ] or any(part.dtype != shape.dtype for part in block):
            return None
        if key not in self._verified:
            if metadata != {"key": key, "crc32": _checksum(block)}:
                return None
            self._verified.add(key)
            with contextlib.suppress(OSError):
                os.utime(path)
        return block

    def _write_file(self, key: str, block: KeysValues) -> None:
        from safetensors.torch import save_file

        path = self._path(key)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".", dir=path.parent)
        os.close(handle)
        try:
            save_file(block._asdict(), name, metadata={"key": key, "crc32": _checksum(block)})
            os.replace(name, path)
        except Exception as error:
            # The library has an error of its own for a full disk.
            raise error if isinstance(error, OSError) else OSError(0, str(error)) from error
        finally:
            Path(name).unlink(missing_ok=True)

    def _make_room(self, size: int) -> bool:
        if size > self._max_bytes:
            return False
        if self._calls % _RECOUNT_CALLS == 0:
            self._count()
        self._calls += 1
        while self._used + size > self._max_bytes and self._removable:
            _, freed, path = self._removable.pop()
            path.unlink(missing_ok=True)
            self._used -= freed
        return self._used + size <= self._max_bytes

    def _count(self) -> None:
        """Count what is used, by other processes too, and choose what may go, the longest unused last."""
        files = self._files()
        self._used = sum(size for _, size, _ in files)
        self._removable = sorted((file for file in files if file[2].stem not in self._needed), reverse=True)

    def _files(self) -> list[tuple[float, int, Path]]:
        found = []
        for path in self._folder.rglob("*"):
            with contextlib.suppress(OSError):
                status = path.stat()
                if stat.S_ISREG(status.st_mode):
                    found.append((status.st_mtime, status.st_size, path))
        return found

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.safetensors"


def _checksum(block: KeysValues) -> str:
    import torch

    total = 0
    for part in block:
        total = zlib.crc32(part.contiguous().view(torch.uint8).numpy(), total)
    return f"{total:08x}"
