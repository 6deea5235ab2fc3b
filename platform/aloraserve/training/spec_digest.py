"""A digest of what decides a trained adapter, to know whether two trainings would give the same one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_CARD = ("licence", "sources", "description", "twin_lora", "twin_training")
"""Keys that the weights do not depend on; a twin's spec has its own ``lora`` and ``training``."""
_COST = ("cache_prefixes", "cache_bytes", "gradient_checkpointing")
"""Keys of ``training`` that change time and memory alone."""
_PATHS = ("rows", "train", "validation", "test")


def spec_digest(spec: Mapping[str, Any], io_yaml: bytes | None, files: Iterable[Path]) -> str:
    """Return the hex SHA-256 of a spec and of what it names.

    Args:
        spec: of JSON's types.
        io_yaml: content of the file that ``intrinsic`` names, None if it names none.
        files: of the data, in the spec's order.

    Raises:
        OSError: a file cannot be read.
    """
    kept = {key: value for key, value in spec.items() if key not in _CARD}
    kept["training"] = {key: value for key, value in spec["training"].items() if key not in _COST}
    # A file that moves is the same file: its content counts.
    kept["data"] = spec["data"] | {name: len(spec["data"][name] or ()) for name in _PATHS}
    if io_yaml is not None:
        kept["intrinsic"] = hashlib.sha256(io_yaml).hexdigest()
    whole = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
    for path in files:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()
