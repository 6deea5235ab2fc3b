"""Data that is ready to train on, and what is to be said about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from aloraserve.adapters import InvocationMode
from aloraserve.adapters.problems import shown
from aloraserve.training import TrainingRow
from aloraserve.training.splits import SplitName
from aloraserve_services.training.examples import TrainingExample

MAX_LABELS = 10
MAX_PLACES = 10
"""Labels and rows that are listed by name."""


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Tokens of a split's examples.

    Args:
        total: of all examples.
        before: of them before the activation points.
        learned: of them in completions, end tokens included.
        median: of an example's length.
        longest: of an example's length.
    """

    total: int
    before: int
    learned: int
    median: int
    longest: int

    @classmethod
    def of(cls, examples: Sequence[TrainingExample]) -> TokenCounts:
        """Return the counts of some examples."""
        lengths = sorted(len(example.token_ids) for example in examples)
        return cls(
            total=sum(lengths),
            before=sum(example.activation for example in examples),
            learned=sum(len(example.token_ids) - example.completion_start for example in examples),
            median=lengths[len(lengths) // 2] if lengths else 0,
            longest=lengths[-1] if lengths else 0,
        )


@dataclass(frozen=True, slots=True)
class PreparedSplit:
    """One part of the data.

    Args:
        rows: that are used.
        examples: of them, in the same order.
        skipped: rows that were over-long and left out.
        cut: rows whose documents were cut; what answers them may be lost.
    """

    rows: tuple[TrainingRow, ...]
    examples: tuple[TrainingExample, ...]
    skipped: tuple[TrainingRow, ...] = ()
    cut: tuple[TrainingRow, ...] = ()

    @property
    def tokens(self) -> TokenCounts:
        """Tokens of the examples."""
        return TokenCounts.of(self.examples)

    @property
    def labels(self) -> str:
        """The completions with their numbers, the commonest first; empty where there are too many to be labels."""
        counts = Counter(row.completion for row in self.rows)
        return (
            ", ".join(f"{shown(label)} {n}" for label, n in counts.most_common()) if len(counts) <= MAX_LABELS else ""
        )

    @property
    def conversations(self) -> int:
        """The number of conversations that the rows belong to."""
        return len({row.conversation for row in self.rows})


@dataclass(frozen=True, slots=True)
class PreparedData:
    """All parts of the data, and how the adapter is invoked.

    Args:
        splits: ``train`` and ``validation``, and ``test`` where there is one.
        forms: the form of each file's rows, by the file's name.
        invocation_ids: tokens of the invocation.
        mode: where the invocation stands.
        shown: an example with its activation point, on one line.
        end_token: that ends each example.
        notes: what a user should know, in sentences.
    """

    splits: Mapping[SplitName, PreparedSplit]
    forms: Mapping[str, str]
    invocation_ids: tuple[int, ...]
    mode: InvocationMode
    shown: str
    end_token: int
    notes: tuple[str, ...] = ()

    @property
    def remarks(self) -> Iterator[str]:
        """Sentences for the user about the data: forms, labels, and which rows are not as they were."""
        for file, form in self.forms.items():
            yield f"{file}: rows in the form of {form}"
        for name, split in self.splits.items():
            if labels := split.labels:
                yield f"{name}: {labels}"
            if split.skipped:
                yield f"{name}: {len(split.skipped)} over-long rows are left out ({_places(split.skipped)})"
            if split.cut:
                yield (
                    f"{name}: the documents of {len(split.cut)} over-long rows are cut, and what answers them may be "
                    f"lost ({_places(split.cut)})"
                )
        yield from self.notes


def _places(rows: Sequence[TrainingRow]) -> str:
    shown = ", ".join(f"{row.file}:{row.line}" for row in rows[:MAX_PLACES])
    return shown if len(rows) <= MAX_PLACES else f"{shown}, ..."
