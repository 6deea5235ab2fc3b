"""A regular expression that finds tokens in a text as a fast tokenizer does."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def pattern_of(words: Iterable[str]) -> str:
    """Return a regular expression that finds the longest of the words at each place.

    Common beginnings are written once: a tokenizer may have thousands of reserved tokens.
    """
    return _alternatives(sorted(set(words) - {""}))


def pattern_of_tokens(tokens: Iterable[str]) -> re.Pattern[str] | None:
    """Return what finds the longest of the tokens at each place, None if there are none."""
    pattern = pattern_of(tokens)
    return re.compile(pattern) if pattern else None


def _alternatives(words: Sequence[str]) -> str:
    by_first: dict[str, list[str]] = {}
    for word in words:
        if word:
            by_first.setdefault(word[0], []).append(word[1:])
    branches = [re.escape(first) + _alternatives(rests) for first, rests in by_first.items()]
    if not branches:
        return ""
    # Greedy, so that of two words of which one begins with the other the longer is found.
    if "" in words:
        return f"(?:{'|'.join(branches)})?"
    return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"
