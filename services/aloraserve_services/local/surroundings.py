"""What this machine and this user's environment have to give before anything starts, or must not change."""

from __future__ import annotations

import contextlib
import getpass
import os
import resource
from collections.abc import Iterator, Mapping
from pathlib import Path

from aloraserve.errors import StartError
from aloraserve.settings import Settings

MIN_FILES = 1024
"""Open files that Ray's processes and a gateway need at least."""
WANTED_FILES = 65_536
MIN_PROCESSES = 1024
"""Processes and threads of this user: Ray starts some hundred threads in each of its processes."""
ELSEWHERE = (
    "RAY_ADDRESS",
    "RAY_API_SERVER_ADDRESS",
    "RAY_JOB_CONFIG_JSON_ENV_VAR",
    "RAY_JOB_HEADERS",
    "RAY_NAMESPACE",
    "RAY_RUNTIME_ENV",
    "RAY_RUNTIME_ENV_HOOK",
    "RAY_TMPDIR",
    "VLLM_CACHE_DIR",
    "VLLM_CPU_KVCACHE_SPACE",
    "VLLM_DP_MASTER_IP",
    "VLLM_DP_MASTER_PORT",
    "VLLM_HOST_IP",
    "VLLM_PORT",
    "VLLM_RPC_BASE_PATH",
)
"""Variables that would have a platform of this machine join another Ray, or have its engines look elsewhere. Kubernetes
sets some of them, for a Service called ``vllm``."""
LOOPBACK = "127.0.0.1,localhost,::1"
_LIMITS = {resource.RLIMIT_NOFILE: ("open files (ulimit -n)", MIN_FILES, WANTED_FILES)}
_NPROC = getattr(resource, "RLIMIT_NPROC", None)
if _NPROC is not None:
    _LIMITS[_NPROC] = ("processes of this user (ulimit -u)", MIN_PROCESSES, 1 << 20)


def check_limits() -> None:
    """Raise the soft limits that a platform would meet.

    Raises:
        StartError: a hard limit is too low; names it.
    """
    for number, (name, needed, wanted) in _LIMITS.items():
        # Nothing limits root's processes.
        if number == _NPROC and os.geteuid() == 0:
            continue
        soft, hard = resource.getrlimit(number)
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if most < needed:
            raise StartError(f"the limit of {name} is {most}; {needed} or more are needed")
        if soft != resource.RLIM_INFINITY and soft < most:
            resource.setrlimit(number, (most, hard))


@contextlib.contextmanager
def own_environment(settings: Settings) -> Iterator[None]:
    """Have the environment that this platform's processes need for the time of the context.

    Args:
        settings: of the platform; caches go to its state folder where this user's home folder cannot be written.
    """
    changes = dict.fromkeys(ELSEWHERE) | _proxies() | _user() | _caches(settings.state_dir)
    with changed_environment(changes):
        yield


@contextlib.contextmanager
def changed_environment(changes: Mapping[str, str | None]) -> Iterator[None]:
    """Have variables changed for the time of the context; None takes one out."""
    before = {name: os.environ.get(name) for name in changes}
    try:
        _set(changes)
        yield
    finally:
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _proxies() -> dict[str, str | None]:
    """Return what keeps calls within this machine from a proxy, which could not reach it."""
    found = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    direct = f"{found},{LOOPBACK}" if found else LOOPBACK
    return {"no_proxy": direct, "NO_PROXY": direct}


def _user() -> dict[str, str | None]:
    """Return a name for a user without an entry in passwd, as containers run as: torch asks for it."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        name = f"uid-{os.getuid()}"
        return {"USER": name, "LOGNAME": name}
    return {}


def _caches(state_dir: Path) -> dict[str, str | None]:
    home = Path(os.path.expanduser("~"))
    if os.access(home, os.W_OK | os.X_OK):
        return {}
    cache = state_dir.absolute() / "cache"
    folders: dict[str, str | None] = {
        name: str(cache / folder)
        for name, folder in (
            ("TORCHINDUCTOR_CACHE_DIR", "torchinductor"),
            ("TRITON_CACHE_DIR", "triton"),
            ("VLLM_CACHE_ROOT", "vllm"),
            ("VLLM_CONFIG_ROOT", "vllm-config"),
            ("XDG_CACHE_HOME", "xdg"),
        )
        if not os.environ.get(name)
    }
    return folders if home.is_dir() else folders | {"HOME": str(state_dir.absolute())}
