"""Names of tenants and of administrators: they stand in salts, paths, labels and logs."""

from __future__ import annotations

import re

NAME_RULE = "1 to 64 of a-z, 0-9, '.', '_' and '-', the first a letter or digit"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def is_name(text: str) -> bool:
    """Whether a tenant may have this name."""
    return _NAME.fullmatch(text) is not None
