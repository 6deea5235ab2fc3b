"""One GGUF file, written tensor by tensor: its memory does not grow with the model."""

from __future__ import annotations

import errno
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aloraserve.errors import SettingsError
from aloraserve_services.models.gguf_export.stored_type import StoredType

ARCHITECTURE = "llama"
Fields = Callable[[Any], None]


@dataclass(frozen=True)
class ExportedTensor:
    """A tensor as it goes into a GGUF.

    Args:
        name: in the GGUF.
        shape: rows first, as PyTorch has it.
        read: returns its numbers in float32.
    """

    name: str
    shape: tuple[int, ...]
    read: Callable[[], NDArray[np.float32]]

    def stored_as(self, wanted: StoredType) -> StoredType:
        """Return the type that its numbers get: engines multiply by vectors in float32 alone."""
        return wanted if len(self.shape) > 1 else "f32"


def write_gguf(path: Path, fields: Fields, tensors: Sequence[ExportedTensor], stored: StoredType) -> None:
    """Write a GGUF.

    Args:
        path: of the file.
        fields: adds the metadata to a ``gguf.GGUFWriter``.
        tensors: in the order in which they are written.
        stored: type of the matrices' numbers.

    Raises:
        SettingsError: a number does not fit the type.
        OSError: the disk is full or cannot be written.
    """
    import gguf

    _check_room(path, tensors, stored)
    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    try:
        fields(writer)
        for tensor in tensors:
            kind = gguf.GGMLQuantizationType[tensor.stored_as(stored).upper()]
            writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), _bytes(tensor, stored), kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            writer.write_tensor_data(_numbers(tensor, tensor.stored_as(stored)))
        writer.flush()
        os.fsync(writer.fout[0].fileno())
    finally:
        writer.close()


def _bytes(tensor: ExportedTensor, stored: StoredType) -> int:
    return math.prod(tensor.shape) * (4 if tensor.stored_as(stored) == "f32" else 2)


def _check_room(path: Path, tensors: Sequence[ExportedTensor], stored: StoredType) -> None:
    needed = sum(_bytes(tensor, stored) for tensor in tensors)
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{path.name} needs {needed >> 20} MiB, {free >> 20} MiB are free on its disk")


def _numbers(tensor: ExportedTensor, kind: StoredType) -> NDArray[Any]:
    import gguf

    numbers = np.ascontiguousarray(tensor.read())
    if not np.isfinite(numbers).all():
        raise SettingsError(f"the tensor {tensor.name} has a number that is not finite")
    if kind == "f16" and np.abs(numbers).max(initial=0) > np.finfo(np.float16).max:
        raise SettingsError(f"the tensor {tensor.name} has numbers beyond float16's; choose the type bf16 or f32")
    found: NDArray[Any] = gguf.quants.quantize(numbers, gguf.GGMLQuantizationType[kind.upper()])
    return found
