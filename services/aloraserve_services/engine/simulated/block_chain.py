"""The blocks of a sequence that grows: their keys and their events."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from aloraserve.blocks import AdapterEffect, BlocksStored, KeySpace


class BlockChain:
    """A prompt and its answer so far, in whole blocks.

    An engine's own hash of a block is its key here: both distinguish the same things.

    Args:
        keyspace: where keys come from.
        token_ids: of the prompt.
        effect: the call's adapter, None for the base model.
        cache_salt: of the tenant.
        public_blocks: how many of the first blocks have no salt.

    Attributes:
        token_ids: all of them.
        keys: of the whole blocks.
    """

    def __init__(
        self,
        keyspace: KeySpace,
        token_ids: Sequence[int],
        effect: AdapterEffect | None,
        cache_salt: str | None,
        public_blocks: int = 0,
    ) -> None:
        self.token_ids = list(token_ids)
        self.keys = keyspace.keys(token_ids, cache_salt=cache_salt, adapter=effect, public_blocks=public_blocks)
        self._public_blocks = public_blocks
        self._keyspace = keyspace
        self._effect = effect
        self._cache_salt = cache_salt
        # The block in which the adapter starts, and how many of its tokens are still the base model's.
        self._split: int | None = None
        self._base_tokens = 0
        if effect is not None:
            self._split, self._base_tokens = divmod(effect.activation, keyspace.block_tokens)

    def copy(self) -> BlockChain:
        """Return a chain that grows by itself from here on."""
        other = object.__new__(BlockChain)
        other.__dict__.update(self.__dict__)
        other.token_ids, other.keys = list(self.token_ids), list(self.keys)
        return other

    def grow(self, token_ids: Sequence[int]) -> None:
        """Append tokens, and the keys of the blocks that they fill."""
        self.token_ids += token_ids
        width, old = self._keyspace.block_tokens, len(self.keys)
        for index in range(old, len(self.token_ids) // width):
            parent = self._keyspace.origin(self._cache_salt, self._public_blocks, self.keys)
            block = self.token_ids[index * width : (index + 1) * width]
            salt = self._effect.salt if self._effect is not None and self._is_adapters(index) else b""
            self.keys += self._keyspace.extend(parent, block, salt, self._base_tokens_of(index))

    def stored(self, first: int, last: int) -> list[BlocksStored]:
        """Return the events of blocks that came to be cached, ``last`` excluded: public, base and adapter's apart."""
        splits = [self._public_blocks, last if self._split is None else self._split]
        ends = [first, *sorted(min(max(split, first), last) for split in splits), last]
        return [self._event(start, end) for start, end in pairwise(ends) if start < end]

    def _event(self, start: int, end: int) -> BlocksStored:
        width = self._keyspace.block_tokens
        return BlocksStored(
            hashes=tuple(self.keys[start:end]),
            parent=self.keys[start - 1] if start else None,
            token_ids=tuple(self.token_ids[start * width : end * width]),
            adapter=self._effect.version if self._effect is not None and self._is_adapters(start) else None,
            cache_salt=self._cache_salt if start == self._public_blocks else None,
            base_tokens=self._base_tokens_of(start),
        )

    def _is_adapters(self, index: int) -> bool:
        return self._split is not None and index >= self._split

    def _base_tokens_of(self, index: int) -> int:
        return self._base_tokens if index == self._split else 0
