"""Where the time of a call goes: flame graphs of a platform's processes under load, and a table of their stacks."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aloraserve.errors import StartError
from aloraserve_services.cli.console import out
from benchmarks.gateway_calls import CALL_TOKENS, STREAM_TOKENS, Arm, Bodies, repeated, turn
from benchmarks.gateway_result import ArmResult, middle
from benchmarks.gateway_turns import CALLS_AT_ONCE, STREAM_PROMPT_TOKENS
from benchmarks.harness.flame_graph import flame_graph
from benchmarks.harness.processes import ENGINES, GATEWAY
from benchmarks.harness.report import make_table, wide

PROFILE_S, SAMPLES_PER_S = 8, 200
PROFILED = (GATEWAY, "serve proxy", ENGINES)
"""Parts that are written in Python and work for each call."""
_ROOMS = (
    (r"aloraserve/wire|pydantic", "validation and answers (wire, pydantic)"),
    (r"prompt_builder|transformers|tokenizers|jinja2", "rendering and tokenizing"),
    (r"aloraserve/blocks", "block keys"),
    (r"aloraserve/(routing|directory|redis)|\bredis/", "routing and directory"),
    (r"telemetry|prometheus_client|opentelemetry|call_metrics|call_spans", "metrics and traces"),
    (r"savings|receipts", "savings and receipts"),
    (r"ray/serve", "Ray Serve"),
    (r"\bray/|_raylet", "Ray core"),
    (r"starlette|fastapi|uvicorn|httptools|h11", "HTTP server"),
    (r"aloraserve", "other code of this project"),
    (r"grpc|zmq|msgspec|msgpack|pickle", "transport"),
    (r"asyncio|uvloop|selectors|concurrent/futures|threading", "event loop and threads"),
)
"""Where a stack's innermost known frame lies, and what that part of the work is called; the first match counts."""


@dataclass(frozen=True, slots=True)
class Profile:
    """One process under one load.

    Args:
        arm: whose process.
        part: which one.
        load: "calls" or "chunks".
        cpu_ms: the process's CPU time for each of them, compiled code that needs no interpreter included.
        rooms: share of the process's samples by where they lie, the innermost frame that is known counts.
    """

    arm: str
    part: str
    load: str
    cpu_ms: float
    rooms: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {"arm": self.arm, "part": self.part, "load": self.load, "cpu_ms": self.cpu_ms, "rooms": self.rooms}


def write_profiles(
    arm: Arm, measured: ArmResult, bodies: Bodies, folder: Path, progress: Callable[[str], None]
) -> list[Profile]:
    """Profile a platform under calls and under streams; write a flame graph of each process into the folder.

    Args:
        arm: the platform.
        measured: its CPU time without a profiler.
        bodies: to send.
        folder: made if it is not there.
        progress: called with what happens.

    Raises:
        StartError: py-spy is not there, or may not look at the processes.
    """
    found = []
    loads = {
        "calls": lambda: bodies.fresh(CALL_TOKENS, 1),
        "chunks": lambda: bodies.fresh(STREAM_PROMPT_TOKENS, STREAM_TOKENS, stream=True),
    }
    assert arm.processes is not None
    pids = arm.processes.pids()
    cpu_ms = {"calls": middle(measured.call_cpu_ms), "chunks": middle(measured.chunk_cpu_ms)}
    for part in PROFILED:
        for load, make in loads.items():
            if part in pids:
                progress(f"{arm.name}: profiling {part} under {load}")
                stacks = asyncio.run(_stacks(arm, pids[part][0], make))
                name = "-".join((arm.name, part, load)).replace(" ", "-")
                _write_flames(stacks, folder / f"flames-{name}.svg", f"{part}, {load}")
                found.append(Profile(arm.name, part, load, cpu_ms[load].get(part, 0.0), rooms(stacks)))
    _show(arm.name, found)
    return found


async def _stacks(arm: Arm, pid: int, make: Callable[[], dict[str, Any]]) -> Counter[str]:
    """Return how often each stack of a process was seen at work while it has a load."""
    program = shutil.which("py-spy")
    if program is None:
        raise StartError("py-spy is not installed; `make install-dev` has it")
    with tempfile.NamedTemporaryFile() as file:
        # Threads that wait in compiled code look busy; who holds the interpreter is at work.
        options = ("--gil", "--duration", str(PROFILE_S), "--rate", str(SAMPLES_PER_S), "--format", "raw")
        spy = await asyncio.create_subprocess_exec(
            *(program, "record", "--pid", str(pid), *options, "--output", file.name),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        await turn(arm, repeated(make), at_once=CALLS_AT_ONCE, seconds=PROFILE_S + 1)
        _, errors = await spy.communicate()
        if spy.returncode:
            raise StartError(f"py-spy cannot look at process {pid}: {errors.decode()[-300:]}")
        return parse_stacks(file.read().decode().splitlines())


def parse_stacks(lines: Iterable[str]) -> Counter[str]:
    """Return the counts of py-spy's raw stacks: frames from the outermost in, separated by semicolons, and a number."""
    found: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        found[stack] += int(count)
    return found


def rooms(stacks: Counter[str]) -> dict[str, float]:
    """Return the share of samples of each kind of work, the largest first."""
    found: Counter[str] = Counter()
    for stack, count in stacks.items():
        found[_room(stack)] += count
    total = max(found.total(), 1)
    return {room: count / total for room, count in found.most_common()}


def _room(stack: str) -> str:
    for frame in reversed(stack.split(";")):
        for pattern, room in _ROOMS:
            if re.search(pattern, frame):
                return room
    return "other libraries"


def _write_flames(stacks: Counter[str], path: Path, title: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(flame_graph(stacks, title), "utf-8")


def _show(arm: str, profiles: list[Profile]) -> None:
    """Print what each kind of work takes: the process's CPU time, split as its samples are."""
    heads = ("work", *(f"{profile.part}\n{profile.load}" for profile in profiles))
    table = make_table(f"{arm}: ms of CPU time per call and per chunk", heads, left=("work",), box=None)
    for room in dict.fromkeys(room for profile in profiles for room in profile.rooms):
        table.add_row(room, *(f"{profile.rooms.get(room, 0) * profile.cpu_ms:.2f}" for profile in profiles))
    table.add_row("all", *(f"{profile.cpu_ms:.2f}" for profile in profiles))
    wide(out).print(table)
