"""Two live engines that differ in the plugin alone: copies (forks) of one engine, one with the plugin taken out again.

Two engines that are started apart differ by several percent for as long as they live, from where their weights lie in
memory; copies share their weights' pages.
"""

from __future__ import annotations

import inspect
import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from engine import Engine

MARK = "__vllm_alora__"
"""What the plugin sets on the functions that it puts in (``vllm_alora/patches/seam.py``)."""
UNUSED_WITHOUT_LORA = "PunicaWrapperCPU"
STOP_S = 30


class ArmError(Exception):
    """Raised when an arm cannot be started or ends by itself."""


class Arm:
    """An engine in another process, reached over a pipe."""

    def __init__(self, name: str, connection: Connection) -> None:
        """Wait until the engine is ready."""
        self._name, self._connection = name, connection
        self._pid = int(self._receive())

    def batch_s(self, prompts: list[list[int]], tokens: int) -> float:
        """Run a batch there and return how long it took there."""
        self._connection.send((prompts, tokens))
        return float(self._receive())

    def cpu_s(self) -> float:
        """Return the processor time that its process has used (Linux)."""
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _receive(self) -> Any:
        try:
            return self._connection.recv()
        except EOFError as exc:
            raise ArmError(f"the engine {self._name} the plugin ended; its error is above") from exc


@contextmanager
def two_arms(model: Path, dtype: str) -> Iterator[tuple[Arm, Arm]]:
    """Start an engine with the plugin, copy it twice, take the plugin out of the second copy; end all afterwards.

    Raises:
        ArmError: one of them ended.
    """
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(2)]
    host = context.Process(target=_host, args=(model, dtype, [theirs for _, theirs in pipes]))
    host.start()
    for _, theirs in pipes:
        theirs.close()
    try:
        with_plugin, without = (Arm(name, ours) for name, (ours, _) in zip(("with", "without"), pipes, strict=True))
        yield with_plugin, without
    finally:
        # A copy ends when its pipe does, and the host when its copies do.
        for ours, _ in pipes:
            ours.close()
        host.join(STOP_S)
        if host.is_alive():
            host.kill()


def _host(model: Path, dtype: str, connections: list[Connection]) -> None:
    """Start the engine, copy it before its first batch, and wait for the copies."""
    engine = Engine(model, dtype)
    context = multiprocessing.get_context("fork")
    copies = [
        context.Process(target=_serve, args=(engine, connections, number), daemon=True)
        for number in range(len(connections))
    ]
    for copy in copies:
        copy.start()
    for connection in connections:
        connection.close()
    for copy in copies:
        copy.join()


def _serve(engine: Engine, connections: list[Connection], number: int) -> None:
    """Serve batches until the other end closes; copy 0 has the plugin, copy 1 has not."""
    for other, connection in enumerate(connections):
        if other != number:
            connection.close()
    if number:
        take_plugin_out()
    connections[number].send(os.getpid())
    while True:
        try:
            prompts, tokens = connections[number].recv()
        except EOFError:
            return
        connections[number].send(engine.batch_s(prompts, tokens))


@contextmanager
def without_plugin() -> Iterator[None]:
    """Put vLLM's own functions back in this process for a while; no request may be running.

    Raises:
        ArmError: as :func:`take_plugin_out`.
    """
    found = list(_patched())
    take_plugin_out()
    try:
        yield
    finally:
        for owner, name, function in found:
            setattr(owner, name, function)


def take_plugin_out() -> None:
    """Put vLLM's own functions back in this process.

    Raises:
        ArmError: the plugin was not there, or a function of its own has nothing to put back.
    """
    found = list(_patched())
    for owner, name, function in found:
        if hasattr(function, "__wrapped__"):
            setattr(owner, name, function.__wrapped__)
    left = [f"{owner.__name__}.{name}" for owner, name, _ in _patched() if owner.__name__ != UNUSED_WITHOUT_LORA]
    if not found or left:
        raise ArmError(f"the plugin cannot be taken out: {', '.join(left) or 'it is not loaded'}")


def _patched() -> Iterator[tuple[Any, str, Any]]:
    """Yield every function of the plugin's in vLLM's modules and classes, with its owner and name."""
    for module_name, module in list(sys.modules.items()):
        if module_name.split(".")[0] != "vllm" or not inspect.ismodule(module):
            continue
        classes = [value for value in list(vars(module).values()) if inspect.isclass(value)]
        for owner in (module, *classes):
            for name, value in list(vars(owner).items()):
                if inspect.isfunction(value) and hasattr(value, MARK):
                    yield owner, name, value
