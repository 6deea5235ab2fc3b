"""Matching of a config's regular expressions in bounded time: a stranger wrote them."""

from __future__ import annotations

import time
from collections.abc import Iterable

import regex

MAX_PATTERN = 4096
BUDGET_S = 2.0
"""The most seconds that one expression may take for all modules of a model."""


def matching(pattern: str, names: Iterable[str]) -> frozenset[str]:
    """Return the names that ``pattern`` matches as a whole.

    Raises:
        ValueError: it is not a regular expression, or takes too long; the text says so.
    """
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"has {len(pattern)} characters, more than {MAX_PATTERN}")
    deadline = time.monotonic() + BUDGET_S
    try:
        compiled = regex.compile(pattern)
        return frozenset(name for name in names if compiled.fullmatch(name, timeout=deadline - time.monotonic()))
    except TimeoutError as error:
        raise ValueError(f"takes longer than {BUDGET_S:g} s for this model's names") from error
    except (regex.error, RecursionError, OverflowError, MemoryError, ValueError) as error:
        raise ValueError(f"is not a regular expression: {str(error)[:80]}") from error
