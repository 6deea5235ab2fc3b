"""Keys and values of a prefix as a cache that a model reads and never adds to."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer


class FrozenLayer(DynamicLayer):
    """A layer's prefix. Each pass sees the prefix and its own tokens, whose places the next pass writes over.

    So a layer may be computed twice, as gradient checkpointing does.

    Args:
        keys: ``[batch, heads, tokens + new tokens, size]``: the prefix, and places for a pass's tokens.
        values: likewise.
        tokens: of the prefix.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, tokens: int) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        # Not views: autograd would take what one layer writes for a change of all others' places.
        self.keys, self.values = keys.data, values.data
        self._tokens = tokens

    def get_seq_length(self) -> int:
        """Return how many tokens the prefix has."""
        return self._tokens

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the prefix's keys and values followed by these, which must fill the places that are there."""
        keys: torch.Tensor = _Followed.apply(key_states, self.keys, self._tokens)
        values: torch.Tensor = _Followed.apply(value_states, self.values, self._tokens)
        return keys, values


class _Followed(torch.autograd.Function):
    """A prefix followed by new tokens, written into places behind it: ``torch.cat`` would copy the prefix."""

    @staticmethod
    def forward(ctx: Any, new: torch.Tensor, room: torch.Tensor, tokens: int) -> torch.Tensor:
        ctx.tokens = tokens
        room[:, :, tokens:].copy_(new)
        return room.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradients[0][:, :, ctx.tokens :], None, None


def frozen_cache(keys: torch.Tensor, values: torch.Tensor, tokens: int) -> Cache:
    """Return a cache of prefixes.

    Args:
        keys: ``[layers, batch, heads, tokens + new tokens, size]``.
        values: likewise.
        tokens: of the prefixes.
    """
    return Cache(layers=[FrozenLayer(*layer, tokens) for layer in zip(keys, values, strict=True)])


def give_up(cache: Cache) -> None:
    """Have a backward pass fail that still needs a cache whose memory is about to be written over."""
    for layer in cache.layers:
        torch.autograd.graph.increment_version([layer.keys, layer.values])


def let_layers_read(model: torch.nn.Module) -> None:
    """Have a model's layers keep the cache under gradient checkpointing.

    transformers takes it from them, with a warning and a wrong result: a layer that adds to a cache would do so twice.
    Ours is only read (``transformers.modeling_layers.GradientCheckpointingLayer``).
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer._can_checkpoint_with_cache = True
