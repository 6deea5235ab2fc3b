"""Bounds of a regular expression, checked before anything is compiled of it.

Counted repetitions within each other multiply: ``(a{1000}){1000}`` holds an engine's step up for 1.7 s and takes 200 MB
(llguidance 1.7), ``(a{100}){100}`` for 27 ms. Whether it is a regular expression says the compiler.
"""

from __future__ import annotations

import re

MAX_REPEATED = 100_000
MAX_NESTED_REPEATED = 1_000
"""Of counted repetitions within each other, their product."""

_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{(\d{1,9})\d*(?:,(\d{0,9})\d*)?\}|[()]", re.DOTALL)


def pattern_fault(pattern: str) -> str:
    """Return why a regular expression is not accepted, an empty string if it is."""
    single, nested = _most_repeated(pattern)
    if single > MAX_REPEATED:
        return f"it repeats something more than {MAX_REPEATED} times"
    if nested > MAX_NESTED_REPEATED:
        return f"it repeats what is repeated more than {MAX_NESTED_REPEATED} times"
    return ""


def _most_repeated(pattern: str) -> tuple[int, int]:
    """Return the largest count, and the largest product of counts of which one is within the other."""
    single = nested = 1
    groups, closed_at, closed = [1], -1, 1
    for token in _TOKEN.finditer(pattern):
        if token[0] == "(":
            groups.append(1)
        elif token[0] == ")" and len(groups) > 1:
            closed_at, closed = token.end(), groups.pop()
            groups[-1] = max(groups[-1], closed)
        elif token[1] is not None:
            within = closed if closed_at == token.start() else 1
            count = max(int(token[1]), int(token[2] or 0))
            closed_at, closed = token.end(), count * within
            single, groups[-1] = max(single, count), max(groups[-1], closed)
            nested = max(nested, closed) if within > 1 else nested
    return single, nested
