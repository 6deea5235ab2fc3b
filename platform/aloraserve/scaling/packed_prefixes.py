"""Hot prefixes as they travel between the replicas of a fleet: few enough bytes that calls do not wait behind them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import msgspec

from aloraserve.scaling.hot_prefixes import HotPrefix

MAX_BYTES = 1 << 20
"""Of a packed list: five bytes per token of all that one replica is given."""
MAX_UNPACKED_BYTES = 4 << 20

_decoder = msgspec.msgpack.Decoder(list[HotPrefix])


def pack(prefixes: Sequence[HotPrefix], *, max_bytes: int = MAX_BYTES) -> bytes:
    """Return prefixes as bytes, without the last ones where all of them would be too many.

    Args:
        prefixes: hottest first.
        max_bytes: of the result; at least what an empty list needs.
    """
    while True:
        data = zlib.compress(msgspec.msgpack.encode(prefixes), 1)
        if len(data) <= max_bytes or not prefixes:
            return data
        prefixes = prefixes[: min(len(prefixes) - 1, len(prefixes) * max_bytes // len(data))]


def unpack(data: bytes) -> list[HotPrefix]:
    """Return the prefixes that were packed.

    Raises:
        ValueError: the bytes are not what :func:`pack` returns.
    """
    stream = zlib.decompressobj()
    try:
        plain = stream.decompress(data, MAX_UNPACKED_BYTES)
        if stream.eof:
            return _decoder.decode(plain)
    except (zlib.error, msgspec.MsgspecError) as error:
        raise ValueError(f"{len(data)} bytes are not packed prefixes: {error}") from None
    raise ValueError(f"packed prefixes are cut off, or more than {MAX_UNPACKED_BYTES} bytes")
