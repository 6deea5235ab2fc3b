"""Other projects' routers, in an environment of their own, before bare engines."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from aloraserve.errors import StartError
from aloraserve_services.cli.own_platform import free_port
from benchmarks.harness.bare_engines import server_process, wait_for_health

REQUIREMENTS = ("sglang-router==0.3.2", "vllm-router==0.1.17")
INSTALL_TIMEOUT_S = 600

_THRESHOLDS = ("--cache-threshold", "0.3", "--balance-abs-threshold", "8", "--balance-rel-threshold", "1.5")
"""vllm-router gains from sharing load earlier than its default of 64 calls; sglang-router loses hits and time by it."""
_QUIET = ("--log-level", "error")


@dataclass(frozen=True, slots=True)
class OtherRouter:
    """A router and the settings that did best on these conversations.

    Args:
        command: its program and flags.
        with_session: whether it needs each conversation's id as a header.
    """

    command: tuple[str, ...]
    with_session: bool = False


ROUTERS = {
    "sglang-router": OtherRouter(("sglang-router", "launch", "--policy", "cache_aware", *_QUIET)),
    "vllm-router": OtherRouter(("vllm-router", "--policy", "cache_aware", *_THRESHOLDS, *_QUIET)),
    "vllm-router by session": OtherRouter(("vllm-router", "--policy", "consistent_hash", *_QUIET), with_session=True),
}
"""Policies that look at prefixes, and the one that looks at what a client says about its conversation instead."""


def routers_environment(folder: Path) -> Path:
    """Return an environment with the routers, made in the folder if it is not there yet.

    Raises:
        StartError: they cannot be installed.
    """
    if not (folder / "bin" / "sglang-router").exists() or not (folder / "bin" / "vllm-router").exists():
        _run(sys.executable, "-m", "venv", str(folder))
        _run(str(folder / "bin" / "python"), "-m", "pip", "install", "-q", *REQUIREMENTS)
    return folder


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)  # noqa: S603
    if done.returncode:
        raise StartError(f"{' '.join(command[:5])} failed: {done.stderr[-500:]}")


@contextlib.contextmanager
def router(name: str, venv: Path, engines: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Run a router for the time of the context; yield its address and its process.

    Args:
        name: a key of :data:`ROUTERS`.
        venv: see :func:`routers_environment`.
        engines: addresses.

    Raises:
        StartError: it does not start.
    """
    program, *flags = ROUTERS[name].command
    port = free_port()
    where = ("--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(free_port()))
    command = (str(venv / "bin" / program), *flags, *where, "--worker-urls", *engines)
    with server_process(command) as process:
        url = f"http://127.0.0.1:{port}"
        yield wait_for_health(url, process), process.pid
