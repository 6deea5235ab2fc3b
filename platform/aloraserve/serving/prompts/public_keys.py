"""Keys of prompts that begin with a shared prefix, remembered from turn to turn.

What is remembered with a text's tokens is salted from its first block on. Behind a prefix that all tenants share the
salt begins later, and later or earlier once prefixes change, so those keys have a memory of their own.
"""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from aloraserve.blocks import BlockKey

MAX_TOKENS = 8 << 20
"""Of all prompts that are remembered; the least recently used goes first."""
BEGINNING_BLOCKS = 2
"""Blocks behind the prefix by which a conversation is found."""


class _Place(NamedTuple):
    salt: str
    public_blocks: int
    beginning: tuple[int, ...]


class _Known(NamedTuple):
    token_ids: array[int]
    keys: Sequence[BlockKey]


class PublicPrefixKeys:
    """See the module's docstring. May be used by any number of threads.

    What is found is exact: tokens are compared, and keys follow from them, the salt and where it begins.

    Args:
        block_tokens: of a block.
        max_tokens: of all prompts that are remembered.
    """

    def __init__(self, block_tokens: int, max_tokens: int = MAX_TOKENS) -> None:
        self._block_tokens = block_tokens
        self._max_tokens = max_tokens
        self._known: OrderedDict[_Place, _Known] = OrderedDict()
        self._tokens = 0
        self._lock = threading.Lock()

    def find(self, salt: str, public_blocks: int, token_ids: Sequence[int]) -> Sequence[BlockKey]:
        """Return the keys of a prompt's first blocks as the base model has them, as many as are remembered.

        Args:
            salt: of the tenant.
            public_blocks: behind which it begins.
            token_ids: of the prompt.
        """
        place = self._place(salt, public_blocks, token_ids)
        with self._lock:
            known = self._known.get(place)
            if known is None:
                return ()
            self._known.move_to_end(place)
        return known.keys[: self._common_blocks(known.token_ids, token_ids)]

    def remember(self, salt: str, public_blocks: int, token_ids: Sequence[int], keys: Sequence[BlockKey]) -> None:
        """Remember the keys of a prompt's first blocks, which are the base model's.

        Args:
            salt: of the tenant.
            public_blocks: behind which it begins.
            token_ids: of the prompt.
            keys: of its first blocks.
        """
        kept = array("I", token_ids[: len(keys) * self._block_tokens])
        place = self._place(salt, public_blocks, token_ids)
        with self._lock:
            before = self._known.pop(place, None)
            self._tokens += len(kept) - (0 if before is None else len(before.token_ids))
            self._known[place] = _Known(kept, tuple(keys))
            while self._tokens > self._max_tokens:
                self._tokens -= len(self._known.popitem(last=False)[1].token_ids)

    def _place(self, salt: str, public_blocks: int, token_ids: Sequence[int]) -> _Place:
        start = public_blocks * self._block_tokens
        return _Place(salt, public_blocks, tuple(token_ids[start : start + BEGINNING_BLOCKS * self._block_tokens]))

    def _common_blocks(self, one: array[int], other: Sequence[int]) -> int:
        """Return how many first blocks two prompts have in common, by halves: most often all that is known."""
        width = self._block_tokens
        low, high = 0, min(len(one), len(other)) // width
        if one[: high * width] == array("I", other[: high * width]):
            return high
        while low < high - 1:
            middle = (low + high) // 2
            same = one[low * width : middle * width] == array("I", other[low * width : middle * width])
            low, high = (middle, high) if same else (low, middle)
        return low
