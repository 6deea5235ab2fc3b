"""Keys and values of a prefix as a cache that a model reads and never adds to."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer


class FrozenLayer(DynamicLayer):
    """A layer's prefix. Each pass sees the prefix and its own tokens, and leaves nothing behind.

    So a layer may be computed twice, as gradient checkpointing does.

    Args:
        keys: ``[batch, heads, tokens, size]``.
        values: likewise.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the prefix's keys and values followed by these."""
        return torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)


def frozen_cache(keys: torch.Tensor, values: torch.Tensor) -> Cache:
    """Return a cache of prefixes.

    Args:
        keys: ``[layers, batch, heads, tokens, size]``.
        values: likewise.
    """
    return Cache(layers=[FrozenLayer(*layer) for layer in zip(keys, values, strict=True)])


def let_layers_read(model: torch.nn.Module) -> None:
    """Have a model's layers keep the cache under gradient checkpointing.

    transformers takes it from them, with a warning and a wrong result: a layer that adds to a cache would do so twice.
    Ours is only read (``transformers.modeling_layers.GradientCheckpointingLayer``).
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer._can_checkpoint_with_cache = True
