"""Examples as a batch: padded on the left, so that completions end together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from aloraserve_services.training.examples import TrainingExample

IGNORED = -100


@dataclass(frozen=True, slots=True)
class Prefixes:
    """Tokens before the activation point of each example of a batch; empty where there are none."""

    token_ids: tuple[Sequence[int], ...]

    @property
    def longest(self) -> int:
        """Tokens of the longest."""
        return max(map(len, self.token_ids))


@dataclass(frozen=True, slots=True)
class Collator:
    """Makes batches.

    Args:
        pad_id: token in places that count for nothing.
        is_alora: whether the adapter is switched on by each example's activation point.
        cut_prefixes: whether the prefixes come as :class:`Prefixes`, and the input begins at the activation points.
    """

    pad_id: int
    is_alora: bool
    cut_prefixes: bool = False

    def __call__(self, examples: Sequence[TrainingExample]) -> dict[str, Any]:
        """Return the model's input.

        ``labels`` has the completions' last tokens alone, ``[batch, longest completion + 1]``: what stands before them
        is not learned, so no logits are computed for it.
        """
        starts = [example.activation if self.cut_prefixes else 0 for example in examples]
        tails = [example.token_ids[start:] for example, start in zip(examples, starts, strict=True)]
        batch: dict[str, Any] = {"input_ids": _left_padded(tails, self.pad_id), "labels": _labels(examples)}
        own = _left_padded([[1] * len(tail) for tail in tails], 0)
        before = _left_padded([[1] * start for start in starts], 0)
        batch["attention_mask"] = torch.cat([before, own], dim=1)
        batch["position_ids"] = (own.cumsum(1) - 1 + torch.tensor(starts).unsqueeze(1)).clamp(min=0)
        if self.is_alora:
            batch["alora_offsets"] = [len(example.token_ids) - example.activation for example in examples]
        if self.cut_prefixes:
            batch["prefixes"] = Prefixes(
                tuple(example.token_ids[:start] for example, start in zip(examples, starts, strict=True))
            )
        return batch


def _labels(examples: Sequence[TrainingExample]) -> torch.Tensor:
    learned = [example.token_ids[example.completion_start :] for example in examples]
    width = max(map(len, learned)) + 1
    return torch.tensor([[IGNORED] * (width - len(ids)) + list(ids) for ids in learned])


def _left_padded(rows: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([[fill] * (width - len(row)) + list(row) for row in rows], dtype=torch.long).view(len(rows), -1)
