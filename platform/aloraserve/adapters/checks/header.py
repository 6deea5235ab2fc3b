"""The header of a safetensors file, read without its tensors and as strictly as safetensors reads it.

Source: the format's description and ``safetensors/src/tensor.rs``. Beyond it, keys that occur twice are refused, which
the library lets through, and the header is bounded.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from aloraserve.adapters.checks.strict_json import parse_object
from aloraserve.adapters.problems import shown

MAX_HEADER_BYTES = 16 * 1024 * 1024
MAX_TENSORS = 65536
ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
"""Types of numbers that are accepted, and their size."""
_OTHER_BYTES = {"F64": 8, "I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor in the file.

    Args:
        name: its key.
        dtype: its numbers' type, as the format calls it.
        shape: its sizes.
        offset: where its first number is in the file, in bytes.
        length: its bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int


def read_header(file: BinaryIO) -> list[TensorEntry]:
    """Return the tensors of an open safetensors file, in the order of their content.

    Raises:
        ValueError: it is not one; the text says what was found, as the end of a sentence about the file.
        OSError: it cannot be read.
    """
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        raise ValueError(f"is not a safetensors file: {size} bytes, a header of {length if size >= 8 else 'none'}")
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"has a header of {length} bytes, more than {MAX_HEADER_BYTES}")
    data = file.read(length)
    if not data.startswith(b"{"):
        raise ValueError("is not a safetensors file: its header does not start with '{'")
    return list(_laid_out(_entries(parse_object(data), start=8 + length), start=8 + length, end=size))


def _entries(header: dict[str, Any], start: int) -> list[TensorEntry]:
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("has __metadata__ that is not an object of texts")
    if len(header) > MAX_TENSORS:
        raise ValueError(f"has {len(header)} tensors, more than {MAX_TENSORS}")
    return sorted((_entry(name, value, start) for name, value in header.items()), key=lambda entry: entry.offset)


def _entry(name: str, value: object, start: int) -> TensorEntry:
    if not isinstance(value, Mapping):
        raise ValueError(f"has a header in which {shown(name)} is not an object")
    shape, offsets = _sizes(name, value, "shape"), _sizes(name, value, "data_offsets")
    if len(offsets) != 2:
        raise ValueError(f"has a header in which {shown(name)} has {len(offsets)} data_offsets")
    entry = TensorEntry(name, str(value.get("dtype")), shape, start + offsets[0], offsets[1] - offsets[0])
    item = ITEM_BYTES.get(entry.dtype) or _OTHER_BYTES.get(entry.dtype)
    if item is None:
        raise ValueError(f"has {shown(name)} of type {shown(entry.dtype)}")
    if math.prod(shape) * item != entry.length:
        raise ValueError(f"has a header in which {shown(name)} of shape {list(shape)} has {entry.length} bytes")
    return entry


def _sizes(name: str, entry: Mapping[Any, Any], key: str) -> tuple[int, ...]:
    value = entry.get(key)
    if not isinstance(value, list) or len(value) > 8 or not all(type(n) is int and 0 <= n < 2**48 for n in value):
        raise ValueError(f"has a header in which {shown(name)} has no valid {key}")
    return tuple(value)


def _laid_out(entries: list[TensorEntry], start: int, end: int) -> Iterator[TensorEntry]:
    """Yield the entries if they fill the file from ``start`` to ``end``, without holes and overlaps."""
    for entry in entries:
        if entry.offset != start:
            raise ValueError(f"has a header in which {shown(entry.name)} overlaps another tensor or leaves a hole")
        start += entry.length
        yield entry
    if start != end:
        raise ValueError(f"is {'too short' if start > end else 'too long'}: {end} bytes, its header says {start}")
