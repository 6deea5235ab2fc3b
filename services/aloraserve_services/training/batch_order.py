"""Order of the examples: shuffled, with those of similar length side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

_POOL_BATCHES = 50


class BatchOrder(Sampler[int]):
    """Yields indexes whose consecutive ``batch_size`` are a batch; an epoch's order follows from the seed alone.

    As transformers' ``LengthGroupedSampler`` does: of each pool of 50 shuffled batches the examples are sorted by
    length, and the batches shuffled again, so that padding is small and no epoch begins with the short ones.

    Args:
        lengths: of the examples, in tokens.
        batch_size: examples per step.
        seed: of all epochs.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._lengths = lengths
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is yielded next."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        shuffled = torch.randperm(len(self._lengths), generator=generator).tolist()
        pool = self._batch_size * _POOL_BATCHES
        batches = [
            batch
            for start in range(0, len(shuffled), pool)
            for batch in self._batches(sorted(shuffled[start : start + pool], key=self._length, reverse=True))
        ]
        # A batch that is not full stays last: steps are counted by full ones.
        full = len(batches) - (len(batches[-1]) < self._batch_size if batches else 0)
        for index in [*torch.randperm(full, generator=generator).tolist(), *range(full, len(batches))]:
            yield from batches[index]

    def _batches(self, ordered: list[int]) -> list[list[int]]:
        return [ordered[start : start + self._batch_size] for start in range(0, len(ordered), self._batch_size)]

    def _length(self, index: int) -> int:
        return self._lengths[index]
