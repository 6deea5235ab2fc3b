"""Overlap of two texts, for answers that may be written in many ways: token F1 and ROUGE-L.

Words are runs of letters and digits, in lower case, without the articles: SQuAD's normalization (arXiv 1606.05250).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

MAX_WORDS = 512
"""Of a text that are compared: the longest common subsequence takes their product."""
_WORD = re.compile(r"[^\W_]+")
_ARTICLES = frozenset(("a", "an", "the"))


def token_f1(reference: str, answer: str) -> float:
    """Return the F1 of the words that two texts share, each as often as it stands in both; 1 for two empty texts."""
    wanted, given = words(reference), words(answer)
    return _harmonic((Counter(wanted) & Counter(given)).total(), len(wanted), len(given))


def rouge_l(reference: str, answer: str) -> float:
    """Return the F1 of the longest common subsequence of words (ROUGE-L, Lin 2004); 1 for two empty texts."""
    wanted, given = words(reference), words(answer)
    return _harmonic(_common_subsequence(wanted, given), len(wanted), len(given))


def words(text: str) -> list[str]:
    """Return a text's words as they are compared, the first :data:`MAX_WORDS` of them."""
    return [word for word in _WORD.findall(text.lower()) if word not in _ARTICLES][:MAX_WORDS]


def _harmonic(hits: int, wanted: int, given: int) -> float:
    return 2 * hits / (wanted + given) if wanted + given else 1.0


def _common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    lengths = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for place, other in enumerate(second, 1):
            above = lengths[place]
            lengths[place] = diagonal + 1 if word == other else max(above, lengths[place - 1])
            diagonal = above
    return lengths[-1]
