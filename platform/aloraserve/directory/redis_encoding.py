"""How the Redis directory writes holders, claims and changes as bytes."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache

from aloraserve.blocks import BlockKey
from aloraserve.directory.base import Holding

FIELD_BYTES = 8
HOLDER_BYTES = 8
TAG_BYTES = 4
MAX_GROUP = 1024
"""Blocks of one run in one script: Lua passes a list's values on its stack, which holds some thousands."""


@lru_cache(maxsize=8192)
def holder_of(replica: str, incarnation: str) -> bytes:
    """Return the bytes that stand for one start of a replica, on every server and without asking any."""
    return hashlib.blake2b(f"{replica}\0{incarnation}".encode(), digest_size=HOLDER_BYTES).digest()


def tag_of(claim_id: str) -> bytes:
    """Return the bytes that stand for a claim."""
    return hashlib.blake2b(claim_id.encode(), digest_size=TAG_BYTES).digest()


def shard_of(first_key: BlockKey, shards: int) -> int:
    """Return the shard of a chain: chains that share anything share their first block."""
    return first_key[0] % shards


def changes_by_shard(stored: Sequence[Holding], removed: Sequence[Holding], shards: int) -> dict[int, bytes]:
    """Return the changes as the script reads them, by shard."""
    groups: dict[tuple[int, BlockKey], tuple[list[Holding], list[Holding]]] = {}
    for kind, holdings in enumerate((stored, removed)):
        for holding in holdings:
            group = groups.setdefault((shard_of(holding.head, shards), holding.anchor), ([], []))
            group[kind].append(holding)
    blobs: dict[int, list[bytes]] = {}
    for (shard, name), (new, old) in groups.items():
        blobs.setdefault(shard, []).extend(_groups(name, new, old))
    return {shard: b"".join(parts) for shard, parts in blobs.items()}


def _groups(name: BlockKey, stored: Sequence[Holding], removed: Sequence[Holding]) -> Iterator[bytes]:
    for start in range(0, max(len(stored), len(removed)), MAX_GROUP):
        new, old = stored[start : start + MAX_GROUP], removed[start : start + MAX_GROUP]
        yield name + struct.pack(">HH", len(new), len(old))
        yield b"".join(holding.key[:FIELD_BYTES] + bytes((holding.tier,)) for holding in new)
        yield b"".join(holding.key[:FIELD_BYTES] for holding in old)
