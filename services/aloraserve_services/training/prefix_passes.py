"""The base model's passes over prefixes: a block of several prefixes at once, each after what is known of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import Cache

from aloraserve_services.training.frozen_cache import frozen_cache, give_up
from aloraserve_services.training.prefix_store import BlockShape, KeysValues

PASS_ROWS = 16
PASS_TOKENS = PASS_ROWS * 512
"""Rows of a pass, times the tokens of the longest one: what is computed, and what is known of it."""


class PrefixPasses:
    """Computes keys and values without the adapter, as the base model is served.

    Args:
        model: a ``PeftModel``.

    Attributes:
        shape: sizes of what it computes.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._causal_lm = model.get_base_model()
        self._device = self._causal_lm.device
        self.shape = self._find_shape()
        self._memory = [torch.empty(0, dtype=self.shape.dtype) for _ in range(2)]
        self._given: Cache | None = None

    def compute(self, rows: Sequence[Sequence[int]], before: Sequence[Sequence[KeysValues]]) -> list[KeysValues]:
        """Return a block of each row, computed in one pass.

        Rows are padded on the right, where causal attention does not look.

        Args:
            rows: tokens of a block.
            before: each row's blocks before it, as many tokens for all rows.
        """
        start, width = sum(block.keys.shape[2] for block in before[0]), max(map(len, rows))
        ids = torch.zeros((len(rows), width), dtype=torch.long)
        for row, tokens in enumerate(rows):
            ids[row, : len(tokens)] = torch.tensor(list(tokens))
        cache = self.cache(before, width)
        self._pass(ids, start, cache)
        return [_cut(cache, row, start, len(tokens)) for row, tokens in enumerate(rows)]

    def cache(self, rows: Sequence[Sequence[KeysValues]], new_tokens: int) -> Cache:
        """Return prefixes as a cache for one pass, padded on the left. The next one is written over it.

        Args:
            rows: each prefix's blocks, in order.
            new_tokens: of the pass.
        """
        lengths = [sum(block.keys.shape[2] for block in blocks) for blocks in rows]
        longest = max(lengths)
        if self._given is not None:
            give_up(self._given)
        sides = self._room(len(rows), longest + new_tokens)
        for row, (blocks, length) in enumerate(zip(rows, lengths, strict=True)):
            at = longest - length
            for side in sides:
                side[:, row, :, :at] = 0
            for block in blocks:
                end = at + block.keys.shape[2]
                for side, part in zip(sides, block, strict=True):
                    side[:, row, :, at:end] = part
                at = end
        keys, values = (side.to(self._device) for side in sides)
        self._given = frozen_cache(keys, values, longest)
        return self._given

    def _room(self, rows: int, tokens: int) -> list[torch.Tensor]:
        """Return places for keys and values in memory that is kept: new pages cost more than what is written there."""
        shape, sides = self.shape, []
        for number, size in enumerate((shape.key_size, shape.value_size)):
            places = (shape.layers, rows, shape.heads, tokens, size)
            needed = torch.Size(places).numel()
            if self._memory[number].numel() < needed:
                self._memory[number] = torch.empty(needed, dtype=shape.dtype)
            sides.append(self._memory[number][:needed].view(places))
        return sides

    def _pass(self, ids: torch.Tensor, start: int, cache: Cache) -> None:
        rows, width = ids.shape
        positions = torch.arange(start, start + width, device=self._device).expand(rows, -1)
        # No logits. Of a number of them torch would multiply a copy of the head's weights per row.
        none = torch.zeros(0, dtype=torch.long, device=self._device)
        with self.as_base():
            self._causal_lm(
                ids.to(self._device),
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=none,
            )

    def _find_shape(self) -> BlockShape:
        cache = DynamicCache(config=self._causal_lm.config)
        self._pass(torch.zeros((1, 1), dtype=torch.long), 0, cache)
        keys, values = cache.layers[0].keys, cache.layers[0].values
        return BlockShape(len(cache.layers), keys.shape[1], keys.shape[3], values.shape[3], keys.dtype)

    @contextlib.contextmanager
    def as_base(self) -> Iterator[None]:
        """Use the model without its adapter and without gradients, as it is served."""
        was_training = self._model.training
        self._model.eval()
        try:
            with torch.no_grad(), self._model.disable_adapter():
                yield
        finally:
            self._model.train(was_training)


def pass_rows(tokens: int) -> int:
    """Return how many rows a pass may have whose longest row has that many tokens, with those before it."""
    return max(1, min(PASS_ROWS, PASS_TOKENS // max(1, tokens)))


def _cut(cache: Cache, row: int, start: int, tokens: int) -> KeysValues:
    """Return what a pass computed for one of its rows."""
    place = (row, slice(None), slice(start, start + tokens))
    sides = zip(*((layer.keys, layer.values) for layer in cache.layers), strict=True)
    return KeysValues(*(torch.stack([layer[place] for layer in side]).cpu() for side in sides))
