"""Make a CUDA library compress better: zero the machine code of GPUs that it will not meet.

Sizes and offsets stay, so nothing else in the file changes. The format of fat binaries (``.nv_fatbin``): a header, then
entries of one architecture each.
"""

from __future__ import annotations

import struct

_MAGIC = struct.pack("<IHH", 0xBA55ED50, 1, 16)
_HEADER = struct.Struct("<IHHQ")
_ENTRY = struct.Struct("<HHIQIIHHI")


def keep_architecture(library: bytes, architecture: int) -> bytes:
    """Return the library with all GPU code but one architecture's replaced by zeros.

    Args:
        library: content of a shared library.
        architecture: 90 for sm_90 (H100, H200).

    Raises:
        ValueError: it has no code for that architecture.
    """
    content = bytearray(library)
    kept = 0
    start = content.find(_MAGIC)
    while start >= 0:
        size = _HEADER.unpack_from(content, start)[3]
        end = start + _HEADER.size + size
        if end <= len(content):
            kept += _clear_others(content, start + _HEADER.size, end, architecture)
        start = content.find(_MAGIC, end if end <= len(content) else start + len(_MAGIC))
    if not kept:
        raise ValueError(f"the library has no code for sm_{architecture}")
    return bytes(content)


def _clear_others(content: bytearray, at: int, end: int, architecture: int) -> int:
    kept = 0
    while at < end:
        _, _, header, size, _, _, _, _, found = _ENTRY.unpack_from(content, at)
        body = at + header
        if found == architecture:
            kept += size
        else:
            content[body : body + size] = bytes(size)
        at = body + size
    return kept
