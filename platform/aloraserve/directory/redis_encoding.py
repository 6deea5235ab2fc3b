"""How the Redis directory writes holders, claims and changes as bytes."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from aloraserve.blocks import BlockKey
from aloraserve.directory.base import Holding
from aloraserve.directory.claimed_blocks import MARK_BYTES

FIELD_BYTES = 8
HOLDER_BYTES = 8
TAG_BYTES = 8
_CLAIMED, _WITHDRAWN = b"c", b"w"
MAX_GROUP = 1024
"""Blocks of one run in one script: Lua passes a list's values on its stack, which holds some thousands."""


@lru_cache(maxsize=8192)
def holder_of(replica: str, incarnation: str) -> bytes:
    """Return the bytes that stand for one start of a replica, on every server and without asking any."""
    return hashlib.blake2b(f"{replica}\0{incarnation}".encode(), digest_size=HOLDER_BYTES).digest()


def claim_name(claim_id: str, holder: bytes) -> bytes:
    """Return the bytes that stand for a holder's claim."""
    return holder + hashlib.blake2b(claim_id.encode(), digest_size=TAG_BYTES).digest()


def shard_of(first_key: BlockKey, shards: int) -> int:
    """Return the shard of a chain: chains that share anything share their first block."""
    return first_key[0] % shards


class ShardChanges(NamedTuple):
    """Changes of one shard as the script reads them.

    Args:
        anchors: of the runs, in order; a run may come twice.
        blob: for each of them the anchor, two counts, and the fields that are stored and removed.
    """

    anchors: list[BlockKey]
    blob: bytes


def changes_by_shard(stored: Sequence[Holding], removed: Sequence[Holding], shards: int) -> dict[int, ShardChanges]:
    """Return the changes by shard."""
    groups: dict[int, dict[BlockKey, tuple[list[Holding], list[Holding]]]] = {}
    for kind, holdings in enumerate((stored, removed)):
        for holding in holdings:
            runs = groups.setdefault(shard_of(holding.head, shards), {})
            runs.setdefault(holding.anchor, ([], []))[kind].append(holding)
    return {shard: _changes(runs) for shard, runs in groups.items()}


def _changes(runs: dict[BlockKey, tuple[list[Holding], list[Holding]]]) -> ShardChanges:
    anchors: list[BlockKey] = []
    parts: list[bytes] = []
    for name, (stored, removed) in runs.items():
        for start in range(0, max(len(stored), len(removed)), MAX_GROUP):
            new, old = stored[start : start + MAX_GROUP], removed[start : start + MAX_GROUP]
            anchors.append(name)
            parts.append(name + struct.pack(">HH", len(new), len(old)))
            parts += [holding.key[:FIELD_BYTES] + bytes((holding.tier,)) for holding in new]
            parts += [holding.key[:FIELD_BYTES] for holding in old]
    return ShardChanges(anchors, b"".join(parts))


class ClaimEntry(NamedTuple):
    """An entry of the stream of claims.

    Args:
        name: of the claim: a holder and a tag.
        replica: whose claim it is.
        ends_ms: when it ends, on the server's clock.
        totals: the replica's open claims with it, see :func:`read_totals`.
        marks: see :mod:`aloraserve.directory.claimed_blocks`.
        is_withdrawn: the claim is taken back.
    """

    name: bytes
    replica: str
    ends_ms: int
    totals: tuple[int, int, int]
    marks: tuple[bytes, ...]
    is_withdrawn: bool

    @property
    def holder(self) -> bytes:
        """The holder that is about to have the blocks."""
        return self.name[:HOLDER_BYTES]


def claim_blob(name: bytes, marks: Sequence[bytes]) -> bytes:
    """Return a claim as the stream's entry has it, beside what the server knows."""
    return _CLAIMED + name + b"".join(marks)


def withdrawal_blob(name: bytes) -> bytes:
    """Return what takes a claim back in the stream."""
    return _WITHDRAWN + name


def read_claim(fields: Sequence[bytes]) -> ClaimEntry:
    """Read the fields and values of an entry of the stream.

    Raises:
        ValueError: they cannot be read.
        KeyError: one is missing.
    """
    found = dict(zip(fields[::2], fields[1::2], strict=True))
    blob = found[b"claim"]
    start = 1 + HOLDER_BYTES + TAG_BYTES
    marks = tuple(blob[at : at + MARK_BYTES] for at in range(start, len(blob), MARK_BYTES))
    return ClaimEntry(
        blob[1:start],
        found[b"replica"].decode(),
        int(found[b"ends"]),
        read_totals(found[b"totals"]),
        marks,
        blob[:1] == _WITHDRAWN,
    )


def read_totals(content: bytes | None) -> tuple[int, int, int]:
    """Return the version of a replica's totals, its claimed tokens, and of how many claims they are."""
    if not content:
        return 0, 0, 0
    version, tokens, claims, _ = content.split(b" ")
    return int(version), int(tokens), int(claims)
