"""Attention of a few tokens to a long prefix, without a copy of the prefix per query head."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

GROUPED = "sdpa_grouped"


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Return transformers' ``sdpa`` attention, computed with the queries of a group of heads side by side.

    transformers repeats keys and values for each query head of a group, and torch sums their gradients afterwards: of
    five tokens after a prefix of 500 that is most of a step. Queries that share keys are rows of one product instead.

    Args:
        module: the attention layer.
        query: ``[batch, query heads, tokens, size]``.
        key: ``[batch, heads, all tokens, size]``.
        value: likewise.
        attention_mask: ``[batch, 1, tokens, all tokens]``; with None, transformers' way is taken.
        dropout: of attention weights.
        scaling: of scores; by the root of ``size`` if None.
        more: what only transformers' way knows.

    Returns:
        ``[batch, tokens, query heads, size]``.
    """
    batch, heads, tokens, size = query.shape
    group = heads // key.shape[1]
    is_prefixed = attention_mask is not None and attention_mask.shape[1] == 1 and tokens < key.shape[2]
    if group == 1 or not is_prefixed or more.get("position_bias") is not None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
    assert attention_mask is not None
    side_by_side = query.reshape(batch, heads // group, group * tokens, size)
    mask = attention_mask.repeat(1, 1, group, 1)
    mixed = torch.nn.functional.scaled_dot_product_attention(
        side_by_side, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling
    )
    return mixed.reshape(batch, heads, tokens, value.shape[3]).transpose(1, 2).contiguous(), None


def group_queries(model: PreTrainedModel) -> None:
    """Have a model use :func:`grouped_attention` where it would use transformers' ``sdpa``."""
    if model.config._attn_implementation == "sdpa" and model._can_set_attn_implementation():
        AttentionInterface.register(GROUPED, grouped_attention)
        AttentionMaskInterface.register(GROUPED, sdpa_mask)
        model.set_attn_implementation(GROUPED)
