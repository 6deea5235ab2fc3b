"""Which versions of vLLM this plugin is for."""

from __future__ import annotations

import os
import re

from vllm_alora.patches.seam import UnsupportedVllmError, vllm_version

FIRST, LAST = (0, 29), (0, 33)
"""The first and the last minor version accepted; each seam is checked on top of that when it is patched."""

ALLOW_VARIABLE = "VLLM_ALORA_ALLOW_UNKNOWN_VLLM"
"""Set to 1 to try another version; seams are checked all the same."""


def check_version() -> None:
    """Refuse a vLLM that nobody has held this plugin against.

    Raises:
        UnsupportedVllmError: the installed version is outside the range, and the variable is not "1".
        ValueError: that variable is neither "0" nor "1".
    """
    allowed = os.environ.get(ALLOW_VARIABLE, "0")
    if allowed not in ("0", "1"):
        raise ValueError(f"{ALLOW_VARIABLE} is {allowed!r}; accepted are '0' and '1'")
    version = vllm_version()
    if is_known(version) or allowed == "1":
        return
    raise UnsupportedVllmError(
        f"vllm-alora is for vLLM {_text(FIRST)} to {_text(LAST)}; {version} is installed. Install one of them, "
        f"look for a newer vllm-alora, or set {ALLOW_VARIABLE}=1 to try it."
    )


def is_known(version: str) -> bool:
    """Say whether a version, written as vLLM writes its own, lies in the range."""
    match = re.match(r"(\d+)\.(\d+)", version)
    return match is not None and FIRST <= (int(match[1]), int(match[2])) <= LAST


def _text(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
