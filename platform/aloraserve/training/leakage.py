"""Rows that stand, nearly equal, on two sides of a split: what a model has seen says nothing of what it learned.

Near-duplicates are found by MinHash with banding (Leskovec et al., Mining of Massive Datasets, 3.4) and then
compared exactly, so the time grows with the rows and not with their square.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aloraserve.training.rows import TrainingRow
from aloraserve.training.splits import SPLITS, SplitName, Splits

NEAR = 0.8
"""Jaccard similarity of two rows' shingles from which they are near-duplicates."""
SHINGLE_WORDS = 3
BANDS, BAND_ROWS = 20, 5
"""Pairs of similarity 0.8 share a band with probability 0.9996, those of 0.4 with 0.19."""
MAX_COMPARED = 64
"""Rows of the other side with which a row is compared exactly."""
_WORD = re.compile(r"\w+")
_Hashes = NDArray[np.uint64]


class Leak(NamedTuple):
    """Two rows on two sides.

    Args:
        kind: they are of one conversation, equal, or nearly equal.
        earlier: the row of the side that is trained on, or the validation's.
        split: the other side.
        later: the row there.
        similarity: Jaccard, 0 to 1.
    """

    kind: Literal["conversation", "equal", "near"]
    earlier: TrainingRow
    split: SplitName
    later: TrainingRow
    similarity: float

    @property
    def found(self) -> str:
        """The leak as the end of a sentence about the later row."""
        what = {
            "conversation": "is of the conversation of",
            "equal": "has the messages of",
            "near": f"nearly has the messages of (similarity {self.similarity:.2f})",
        }[self.kind]
        return f"({self.split}) {what} {self.earlier.file}:{self.earlier.line}"


def find_leaks(splits: Splits) -> Iterator[Leak]:
    """Yield, per row of validation and test, the first row on an earlier side that it repeats.

    Messages are compared without case, punctuation and white space; documents and completions are not: a corpus and
    a set of labels are shared by right.

    Args:
        splits: the rows.
    """
    index = _Index()
    for split in SPLITS:
        rows = splits.get(split, ())
        described = [_Described(row, index.words) for row in rows]
        if split != "train":
            for row in described:
                if (leak := index.leak(split, row)) is not None:
                    yield leak
        index.add(described)


class _Described:
    """A row with what it is compared by."""

    def __init__(self, row: TrainingRow, words: _WordHashes) -> None:
        self.row = row
        text = " ".join(_WORD.findall(_text(row).casefold()))
        self.key = hashlib.blake2b(text.encode(), digest_size=16).digest()
        self.shingles = _shingles(words.of(text.split()))
        self.bands = _bands(self.shingles)


class _WordHashes:
    """64-bit numbers of words, equal in every process."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def of(self, words: Sequence[str]) -> _Hashes:
        known = self._known
        for word in words:
            if word not in known:
                known[word] = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest())
        return np.fromiter((known[word] for word in words), np.uint64, len(words))


class _Index:
    """Rows that later ones are compared with."""

    def __init__(self) -> None:
        self.words = _WordHashes()
        self._conversations: dict[str, TrainingRow] = {}
        self._equal: dict[bytes, TrainingRow] = {}
        self._bands: defaultdict[tuple[int, int], list[_Described]] = defaultdict(list)

    def add(self, rows: Iterable[_Described]) -> None:
        for row in rows:
            self._conversations.setdefault(row.row.conversation, row.row)
            if row.key in self._equal:
                continue
            self._equal[row.key] = row.row
            for place in row.bands:
                self._bands[place].append(row)

    def leak(self, split: SplitName, row: _Described) -> Leak | None:
        if (equal := self._equal.get(row.key)) is not None:
            return Leak("equal", equal, split, row.row, 1.0)
        if (same := self._conversations.get(row.row.conversation)) is not None:
            return Leak("conversation", same, split, row.row, 1.0)
        for other in islice(self._candidates(row), MAX_COMPARED):
            if (similarity := _jaccard(row.shingles, other.shingles)) >= NEAR:
                return Leak("near", other.row, split, row.row, similarity)
        return None

    def _candidates(self, row: _Described) -> Iterator[_Described]:
        seen: set[bytes] = set()
        for place in row.bands:
            for other in self._bands.get(place, ()):
                if other.key not in seen:
                    seen.add(other.key)
                    yield other


def _text(row: TrainingRow) -> str:
    """Return what a row asks: its messages without the system's, which all may share, and the instruction's fields."""
    said = [message for message in row.messages if message["role"] not in ("system", "developer")]
    texts = [_content(message.get("content")) for message in said or row.messages]
    return " ".join([*texts, *row.fields.values()])


def _content(content: Any) -> str:
    if isinstance(content, list):
        return " ".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content or ""


def _shingles(words: _Hashes) -> _Hashes:
    """Return the sorted hashes of each three consecutive words; of all words if there are fewer."""
    width = min(SHINGLE_WORDS, len(words))
    count = len(words) - width + 1 if width else 0
    mixed = np.zeros(count, np.uint64)
    for place in range(width):
        mixed = (mixed ^ words[place : place + count]) * _ODD[place]
    return np.unique(mixed ^ (mixed >> np.uint64(29)))


def _bands(shingles: _Hashes) -> list[tuple[int, int]]:
    """Return the hash of each band of a row's MinHash."""
    if not len(shingles):
        return []
    least = (shingles[:, None] * _FACTORS + _OFFSETS).min(axis=0)
    mixed = (least.reshape(BANDS, BAND_ROWS) * _ODD[:BAND_ROWS]).sum(axis=1, dtype=np.uint64)
    return list(enumerate(mixed.tolist()))


def _jaccard(one: _Hashes, other: _Hashes) -> float:
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / max(1, len(one) + len(other) - common)


_RANDOM = np.random.default_rng(0)
_FACTORS: _Hashes = _RANDOM.integers(0, 2**64, BANDS * BAND_ROWS, np.uint64, endpoint=False) | np.uint64(1)
_OFFSETS: _Hashes = _RANDOM.integers(0, 2**64, BANDS * BAND_ROWS, np.uint64, endpoint=False)
_ODD: _Hashes = _RANDOM.integers(0, 2**64, 8, np.uint64, endpoint=False) | np.uint64(1)
