"""What Serve would read of a config file, and what it would drop without a word."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ray.serve.schema import ServeDeploySchema


def ignored_keys(content: dict[str, Any]) -> list[str]:
    """Return the keys that Serve does not know, each with its path; it ignores them.

    Raises:
        ValidationError: a key that it knows has a value that it does not take.
    """
    return list(_missing(content, ServeDeploySchema.model_validate(content).model_dump(exclude_unset=True), ""))


def _missing(given: Any, read: Any, path: str) -> Iterator[str]:
    if isinstance(given, dict) and isinstance(read, dict):
        for key, value in given.items():
            place = f"{path}.{key}" if path else str(key)
            if key in read:
                yield from _missing(value, read[key], place)
            else:
                yield place
    elif isinstance(given, list) and isinstance(read, list):
        for number, (each, found) in enumerate(zip(given, read, strict=True)):
            yield from _missing(each, found, f"{path}[{number}]")
