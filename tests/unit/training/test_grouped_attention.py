"""Attention to a long prefix: transformers' own values and gradients, without a copy of the prefix per query head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from aloraserve_services.training import grouped_attention as module
from aloraserve_services.training.examples import TrainingExample
from aloraserve_services.training.grouped_attention import GROUPED, group_queries, grouped_attention

BATCH, HEADS, GROUP, SIZE = 3, 2, 3, 16


def tensors(tokens: int, all_tokens: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    sizes = [(HEADS * GROUP, tokens), (HEADS, all_tokens), (HEADS, all_tokens)]
    return [torch.randn(BATCH, heads, length, SIZE, requires_grad=True) for heads, length in sizes]


def causal(tokens: int, all_tokens: int) -> torch.Tensor:
    """Each row is padded on the left by a number of places of its own."""
    mask = torch.ones(tokens, all_tokens, dtype=torch.bool).tril(all_tokens - tokens).repeat(BATCH, 1, 1, 1)
    for row in range(BATCH):
        mask[row, ..., : 2 * row] = False
    return mask


def attended(attention: Any, inputs: Sequence[torch.Tensor], mask: torch.Tensor | None) -> list[torch.Tensor]:
    mixed, _ = attention(SimpleNamespace(num_key_value_groups=GROUP, is_causal=True), *inputs, mask, scaling=0.3)
    weights = torch.linspace(-1, 1, mixed.numel()).view(mixed.shape)
    return [mixed, *torch.autograd.grad((mixed * weights).sum(), inputs)]


@pytest.mark.parametrize(
    ("tokens", "all_tokens", "masked"), [(5, 40, True), (1, 9, True), (12, 12, True), (6, 6, False)]
)
def test_values_and_gradients_are_those_of_transformers(tokens: int, all_tokens: int, masked: bool) -> None:
    inputs, mask = tensors(tokens, all_tokens), causal(tokens, all_tokens) if masked else None
    found, expected = (attended(attention, inputs, mask) for attention in (grouped_attention, sdpa_attention_forward))
    assert found[0].shape == (BATCH, tokens, HEADS * GROUP, SIZE)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_prefix_is_never_repeated_per_query_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "sdpa_attention_forward", lambda *_, **__: pytest.fail("keys were repeated"))
    attended(grouped_attention, tensors(5, 40), causal(5, 40))


def test_a_model_has_the_same_logits_with_it_and_one_that_attends_otherwise_is_left_alone(
    tiny_base: Path, examples: Sequence[TrainingExample]
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_base, attn_implementation="sdpa")
    ids = torch.tensor([examples[0].token_ids])
    kept = model(ids[:, :200], use_cache=True).past_key_values
    expected = model(ids[:, 200:], past_key_values=kept).logits
    group_queries(model)
    assert model.config._attn_implementation == GROUPED
    kept = model(ids[:, :200], use_cache=True).past_key_values
    torch.testing.assert_close(model(ids[:, 200:], past_key_values=kept).logits, expected, rtol=1e-4, atol=1e-5)
    eager = AutoModelForCausalLM.from_pretrained(tiny_base, attn_implementation="eager")
    group_queries(eager)
    assert eager.config._attn_implementation == "eager"
