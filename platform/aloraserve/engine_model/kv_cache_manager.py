"""Which blocks requests have, and the events of each change: vLLM's ``v1/core/kv_cache_manager.py`` in short."""

from __future__ import annotations

from collections.abc import Sequence

from aloraserve.blocks import BlockKey
from aloraserve.engine_model.block_cache import Allocation, BlockCache
from aloraserve.engine_model.outputs import AllBlocksCleared, BlocksChanged, KVCacheEvent
from aloraserve.engine_model.request import Request


class KVCacheManager:
    """Gives requests their blocks and notes what changed.

    A prompt's blocks count as cached from the moment at which the request gets them, so that siblings share them; those
    that it then does not compute go with it, unless another request has them too.

    Args:
        capacity_blocks: at least 1.
        block_tokens: tokens per block.
    """

    def __init__(self, capacity_blocks: int, block_tokens: int) -> None:
        self.cache = BlockCache(capacity_blocks)
        self.block_tokens = block_tokens
        self._uncomputed: set[BlockKey] = set()
        self._events: list[KVCacheEvent] = []

    @property
    def usage(self) -> float:
        """Share of the blocks that running requests use, 0 to 1."""
        return self.cache.usage

    @property
    def free_blocks(self) -> int:
        """Blocks that no running request uses."""
        return self.cache.free_blocks

    def num_blocks(self, tokens: int) -> int:
        """Return how many blocks so many tokens fill."""
        return -(-tokens // self.block_tokens)

    def get_computed_tokens(self, request: Request) -> int:
        """Return how many of a request's tokens are cached; its last one is always computed."""
        return self._computed_tokens(request, self._keys(request))

    def allocate_slots(self, request: Request) -> bool:
        """Give a request blocks for its prompt and what it had generated before; return whether there was room."""
        keys = self._keys(request)
        computed = self._computed_tokens(request, keys)
        allocation = self.cache.allocate(request.request_id, keys, self.num_blocks(request.num_tokens))
        if allocation is None:
            return False
        request.num_computed_tokens = computed
        request.num_keyed_blocks = len(keys)
        self._uncomputed.update(allocation.stored)
        self._note(request, keys, allocation)
        return True

    def grow(self, blocks: int, request: Request) -> None:
        """Give running answers blocks together, or take some back.

        Args:
            blocks: at most :attr:`free_blocks`; negative to take back.
            request: one of them.
        """
        evicted = self.cache.grow(blocks)
        if evicted:
            chain = request.prompt_keys
            self._events.append(BlocksChanged(evicted, request, chain, len(chain)))

    def settle(self, request: Request, tokens: int) -> None:
        """Say for how many tokens a request has blocks, of all that :meth:`grow` gave, before it leaves."""
        self.cache.settle(request.request_id, self.num_blocks(tokens))

    def set_computed(self, request: Request) -> None:
        """Note that a request's ``num_computed_tokens`` went up."""
        self._uncomputed.difference_update(self._keys(request)[: request.num_computed_tokens // self.block_tokens])

    def cache_blocks(self, request: Request, num_computed_tokens: int) -> None:
        """Have the blocks cached that a request's answer has filled; vLLM does so as they are filled."""
        known, whole = request.num_keyed_blocks, num_computed_tokens // self.block_tokens
        if whole <= known:
            return
        prompt = len(request.prompt_keys)
        keys = request.output_keys()[: whole - prompt]
        new = keys[known - prompt :]
        if new:
            allocation = self.cache.store(request.request_id, new)
            request.num_keyed_blocks += len(new)
            self._note(request, [*request.prompt_keys, *keys], allocation)

    def free(self, request: Request) -> None:
        """Take a request's blocks back: they stay cached until their room is needed, but for those not computed."""
        dropped = self.cache.release(request.request_id, drop=self._uncomputed)
        if dropped:
            self._uncomputed.difference_update(dropped)
            chain = request.prompt_keys
            self._events.append(BlocksChanged(dropped, request, chain, len(chain)))

    def reset_prefix_cache(self) -> None:
        """Drop every block; no request may run."""
        self.cache.clear()
        self._events.append(AllBlocksCleared())

    def take_events(self) -> list[KVCacheEvent]:
        """Return what changed since the last time."""
        events, self._events = self._events, []
        return events

    def _keys(self, request: Request) -> Sequence[BlockKey]:
        """Return the keys of the whole blocks that a request is to compute before its next token."""
        prompt = request.prompt_keys
        if not request.num_output_tokens:
            return prompt
        return [*prompt, *request.output_keys()[: request.num_tokens // self.block_tokens - len(prompt)]]

    def _computed_tokens(self, request: Request, keys: Sequence[BlockKey]) -> int:
        return min(self.cache.match(keys), (request.num_tokens - 1) // self.block_tokens) * self.block_tokens

    def _note(self, request: Request, chain: Sequence[BlockKey], changed: Allocation) -> None:
        """Note a change; what was stored is the end of the chain, because a chain is cached from its start on."""
        if changed.stored or changed.evicted:
            self._events.append(BlocksChanged(changed.evicted, request, chain, len(chain) - len(changed.stored)))
