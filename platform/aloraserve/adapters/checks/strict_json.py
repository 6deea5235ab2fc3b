"""JSON as every reader of an adapter reads it: PEFT, vLLM, the plugin and safetensors."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

from aloraserve.adapters.problems import shown

_BOMS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")


def parse_object(data: bytes) -> dict[str, Any]:
    """Return the object that ``data`` is.

    Raises:
        ValueError: it is none, or one that other readers refuse or read in another way; the text says what was found,
            as the end of a sentence about the file.
    """
    if data.startswith(_BOMS) or b"\0" in data[:4]:
        raise ValueError("is not UTF-8 without a byte order mark")
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise ValueError("is not UTF-8 without a byte order mark") from error
    except _NotPlainError as error:
        raise ValueError(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not valid JSON: {str(error)[:120]}") from error
    if b"\\u" in data and not _is_text(value):
        raise ValueError("has half a surrogate pair, which is not text")
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")
    return value


class _NotPlainError(Exception):
    """Raised inside the parser, where a ValueError would be taken for its own."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise _NotPlainError(f"has the key {shown(twice)} twice")
    for key, value in pairs:
        if not _is_finite(value):
            raise _NotPlainError(f"has a number that is not finite in {shown(key)}")
    return found


def _is_finite(value: object) -> bool:
    """Whether there is neither NaN nor infinity; objects inside have been checked before."""
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _is_text(value: object) -> bool:
    """Whether every string in it can be written as UTF-8."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
