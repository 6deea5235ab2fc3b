"""Samples: one per call of interest, and all of them."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

MAX_SAMPLES = 1_000_000


@dataclass(frozen=True, slots=True)
class Sample:
    """One call.

    Args:
        phase: of the load test, such as "sync" or "conversations".
        pipeline: its name.
        arm: its name.
        step: "base" or "evaluation", as the paper calls the step that is compared, or "whole" for the pipeline.
        state: "first" for the first evaluation of a conversation, "returning" for later ones.
        length: tokens that were asked for; 0 where they were not.
        at_s: when it began, since the phase began.
        prompt_tokens: of the prompt.
        cached_tokens: of those, not prefilled.
        ttft_s: see :class:`~aloraserve.wire.answer_stream.StreamedAnswer`, like the next ones.
        e2e_s: likewise.
        itl_s: likewise.
        prefill_s: likewise.
        saved_s: likewise.
        replica: label of the replica that answered.
        variant: which conversation: equal names in two arms have equal content.
        error: why it failed, empty if it did not.
        rate_per_s: new conversations per second, 0 where they are not Poisson.
    """

    phase: str
    pipeline: str
    arm: str
    step: str
    state: str
    length: int
    at_s: float
    prompt_tokens: int = 0
    cached_tokens: int = 0
    ttft_s: float = 0.0
    e2e_s: float = 0.0
    itl_s: float | None = None
    prefill_s: float | None = None
    saved_s: float | None = None
    replica: str = ""
    variant: str = ""
    error: str = ""
    rate_per_s: float = 0.0

    @property
    def queue_s(self) -> float | None:
        """Part of the TTFT that was not prefill: gateway, network and waiting."""
        return None if self.prefill_s is None else max(0.0, self.ttft_s - self.prefill_s)

    @property
    def decode_s(self) -> float:
        """From the first token to the last."""
        return self.e2e_s - self.ttft_s


FIELDS = tuple(item.name for item in fields(Sample))


class Samples:
    """All samples of a load test, bounded."""

    def __init__(self, given: Iterable[Sample] = ()) -> None:
        self._samples = list(given)
        self.dropped = 0
        self._is_closed = False

    def __iter__(self) -> Any:
        return iter(self._samples)

    def __len__(self) -> int:
        return len(self._samples)

    def add(self, sample: Sample) -> None:
        """Keep a sample; beyond :data:`MAX_SAMPLES` they are counted alone."""
        if self._is_closed:
            return
        if len(self._samples) < MAX_SAMPLES:
            self._samples.append(sample)
        else:
            self.dropped += 1

    def close(self) -> None:
        """Take no more."""
        self._is_closed = True

    def take(self) -> list[Sample]:
        """Return all samples and keep none: what a worker sends to its master."""
        taken, self._samples = self._samples, []
        return taken

    def write_csv(self, path: Path) -> None:
        """Write one line per sample."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(asdict(sample) for sample in self._samples)
