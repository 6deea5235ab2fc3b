"""A prefix as blocks, each named by a digest of all tokens up to its end."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from typing import NamedTuple

BLOCK_TOKENS = 128
"""Tokens that are computed in one pass: rows that begin alike share whole blocks."""


class PrefixBlock(NamedTuple):
    """Some tokens of a prefix.

    Args:
        key: hex digest of the base model, its dtype and all tokens up to ``end``.
        start: index of its first token.
        end: index after its last one.
    """

    key: str
    start: int
    end: int


def prefix_blocks(base: str, token_ids: Sequence[int]) -> list[PrefixBlock]:
    """Return a prefix's blocks, in order.

    Where they begin depends on nothing but :data:`BLOCK_TOKENS`, so prefixes that begin alike share blocks. The last
    bits of a block's values may depend on what is computed in the same pass (ADR 0037).

    Args:
        base: names the base model's weights and their dtype.
        token_ids: of the prefix.
    """
    blocks, parent = [], base.encode()
    for start in range(0, len(token_ids), BLOCK_TOKENS):
        ids = array("q", token_ids[start : start + BLOCK_TOKENS])
        key = hashlib.blake2b(parent + b"/" + ids.tobytes(), digest_size=20).hexdigest()
        blocks.append(PrefixBlock(key, start, start + len(ids)))
        parent = key.encode()
    return blocks
