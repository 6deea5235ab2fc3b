"""The processes of a platform, seen from outside: what each is, its CPU time and its memory."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Mapping

import psutil

ENGINES, GATEWAY, COMMAND = "engines", "gateway", "command"
OTHERS = "others"
_SIGNS = {
    "ServeReplica:aloraserve:engine": ENGINES,
    "ServeReplica:llm:LLMServer": ENGINES,
    # Of Ray Serve LLM, its ingress or its router.
    "ServeReplica": GATEWAY,
    "ProxyActor": "serve proxy",
    "haproxy": "haproxy",
    "ServeController": "serve controller",
    "raylet/raylet": "raylet",
    "gcs_server": "ray gcs",
    "valkey": "redis",
    "redis-server": "redis",
    "dashboard": "ray dashboard",
    "runtime_env": "ray agents",
    "log_monitor": "ray agents",
    "ray::IDLE": "ray idle workers",
}
"""Part of a command line, and the part of the platform that it is; the first that is found counts."""


class PlatformProcesses:
    """The processes of one platform.

    Args:
        pid: of the process that started it, None for engines alone.
        engines: of a process that started engines elsewhere.
    """

    def __init__(self, pid: int | None, engines: int | None = None) -> None:
        roots = ((COMMAND, pid), (ENGINES, engines))
        self._roots = [(part, psutil.Process(root)) for part, root in roots if root is not None]

    def cpu_s(self) -> dict[str, float]:
        """Return the CPU time that each part has used so far, user and system together."""
        found: dict[str, float] = defaultdict(float)
        for part, process in self._all():
            with contextlib.suppress(psutil.NoSuchProcess):
                found[part] += sum(process.cpu_times()[:2])
        return dict(found)

    def memory_mb(self) -> dict[str, float]:
        """Return each part's own memory (unique set size), in MB."""
        found: dict[str, float] = defaultdict(float)
        for part, process in self._all():
            with contextlib.suppress(psutil.NoSuchProcess):
                found[part] += process.memory_full_info().uss / 1e6
        return dict(found)

    def pids(self) -> dict[str, list[int]]:
        """Return the processes of each part."""
        found: dict[str, list[int]] = defaultdict(list)
        for part, process in self._all():
            found[part].append(process.pid)
        return dict(found)

    def _all(self) -> list[tuple[str, psutil.Process]]:
        found = list(self._roots)
        engines = {process.pid for part, process in found if part == ENGINES}
        for _, root in self._roots:
            for process in root.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    # What an engine starts, vLLM's core for one, is the engine.
                    part = ENGINES if process.ppid() in engines else part_of(" ".join(process.cmdline()))
                    if part == ENGINES:
                        engines.add(process.pid)
                    found.append((part, process))
        return found


def part_of(command: str) -> str:
    """Return which part of a platform a command line is."""
    return next((part for sign, part in _SIGNS.items() if sign in command), OTHERS)


def used(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Return what each part used between two looks."""
    return {part: seconds - before.get(part, 0.0) for part, seconds in after.items()}


def without_engines(parts: Mapping[str, float]) -> float:
    """Return the sum over all parts but the engines."""
    return sum(value for part, value in parts.items() if part != ENGINES)
