"""This machine: limits, shared memory, disks, processors and GPUs."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from aloraserve.errors import StartError
from aloraserve.settings import Settings
from aloraserve_services.doctor.base import Finding, failed, ok, skipped, warning
from aloraserve_services.local.private_folder import private_folder
from aloraserve_services.local.surroundings import WANTED_FILES, check_limits
from aloraserve_services.models.hardware import preferred_dtype, runs_on_cpu

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the place itself
GIB = 1 << 30
WANTED_SHARED = 2 * GIB
NEEDED_DISK, WANTED_DISK = GIB, 10 * GIB
GPU_QUERY = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
GPU_S = 4.0
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
"""Of a model that is fetched; a folder's path begins otherwise, or has more parts."""


def look_at_limits() -> Iterator[Finding]:
    """Look at the limits of open files and processes."""
    try:
        check_limits()
    except StartError as error:
        remedy = "LimitNOFILE=65536 of systemd, --ulimit nofile=65536 of Docker, or /etc/security/limits.conf"
        yield failed("limits", error.message, remedy)
        return
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < WANTED_FILES:
        yield warning(
            "limits", f"{soft} open files", f"raise the hard limit to {WANTED_FILES} for thousands of connections"
        )
    else:
        yield ok("limits", f"{soft} open files")


def look_at_shared_memory(folder: Path = SHARED_MEMORY) -> Iterator[Finding]:
    """Look at the memory that Ray and torch share between processes."""
    remedy = f"docker run --shm-size 2g; in Kubernetes an emptyDir with medium: Memory at {folder}"
    if not folder.is_dir():
        yield failed("shared memory", f"there is no {folder}", remedy)
        return
    size = shutil.disk_usage(folder).total
    if size < WANTED_SHARED:
        yield warning("shared memory", f"{_size(size)} at {folder}; Ray then uses a disk", remedy)
    else:
        yield ok("shared memory", f"{_size(size)} at {folder}")


def look_at_disks(settings: Settings) -> Iterator[Finding]:
    """Look at the room where models, adapters and logs go."""
    places = {"state_dir": settings.state_dir, "adapter_store": settings.adapter_snapshots}
    if HUB_ID.fullmatch(settings.model):
        places["HF_HOME"] = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    for name, folder in places.items():
        free = shutil.disk_usage(_existing(folder)).free
        check = f"disk of {name}"
        remedy = f"make room, or set {name} to another disk"
        if free < NEEDED_DISK:
            yield failed(check, f"{_size(free)} free", remedy)
        elif free < WANTED_DISK:
            yield warning(check, f"{_size(free)} free; a model and its adapters take more", remedy)
        else:
            yield ok(check, f"{_size(free)} free")


def look_at_temporary_files() -> Iterator[Finding]:
    """See whether a private folder for sockets can be made."""
    try:
        with private_folder("doctor"):
            yield ok("temporary files", "can be written")
    except StartError as error:
        yield failed("temporary files", error.message, "mount a tmpfs at /tmp, or set TMPDIR")


def look_at_processor(settings: Settings, cpuinfo: Path = Path("/proc/cpuinfo")) -> Iterator[Finding]:
    """Compare the processor with the number type of the engines."""
    if settings.engine == "simulated" or not runs_on_cpu(settings.device):
        yield skipped("processor", "engines do not compute on it")
        return
    fit = preferred_dtype(cpuinfo, device="cpu")
    if settings.dtype == "bfloat16" and fit == "float32":
        yield warning(
            "processor",
            "it has no bfloat16 instructions, and dtype is bfloat16: prefill is four to six times slower",
            "set dtype to float32, or run engines where the processor has avx512_bf16 or amx_bf16",
        )
    else:
        yield ok("processor", f"{'multiplies' if fit == 'bfloat16' else 'does not multiply'} bfloat16")


def look_at_gpus(settings: Settings) -> Iterator[Finding]:
    """Ask the driver for this machine's GPUs, where engines need them."""
    if settings.engine == "simulated" or runs_on_cpu(settings.device):
        yield skipped("gpu", "engines need none")
        return
    remedy = (
        "install NVIDIA's driver; in containers its container toolkit (--gpus all), in Kubernetes the device plugin"
    )
    try:
        done = subprocess.run(GPU_QUERY, text=True, capture_output=True, timeout=GPU_S, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        yield failed("gpu", f"nvidia-smi: {type(error).__name__}", remedy)
        return
    found = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if done.returncode != 0 or not found:
        yield failed("gpu", f"nvidia-smi ends with {done.returncode} and names no GPU", remedy)
    else:
        yield ok("gpu", "; ".join(found[:16]))


def _existing(folder: Path) -> Path:
    """Return a folder, or the nearest one above that there is."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def _size(count: int) -> str:
    return f"{count / GIB:.1f} GiB"
