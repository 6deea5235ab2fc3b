"""Bare engines in processes of their own, started by ``aloraserve engine --simulated``."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator, Sequence

import httpx

from aloraserve.errors import StartError
from aloraserve_services.cli.own_platform import free_port
from benchmarks.harness.detached_platform import COMMAND

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 10.0
POLL_S = 0.1


@contextlib.contextmanager
def bare_engines(count: int, *flags: str) -> Iterator[list[str]]:
    """Run engines for the time of the context; yield their addresses.

    Args:
        count: how many.
        flags: of ``aloraserve engine``, beside those of the kind and the port.

    Raises:
        StartError: one does not start.
    """
    with contextlib.ExitStack() as stack:
        servers = []
        for _ in range(count):
            port = free_port()
            command = (*COMMAND, "engine", "--simulated", "--port", str(port), *flags)
            servers.append((f"http://127.0.0.1:{port}", stack.enter_context(server_process(command))))
        yield [wait_for_health(url, process) for url, process in servers]


@contextlib.contextmanager
def server_process(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command, silently, for the time of the context."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:  # noqa: S603
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_for_health(url: str, process: subprocess.Popen[bytes], timeout_s: float = START_TIMEOUT_S) -> str:
    """Return the address of a server once ``/health`` answers.

    Raises:
        StartError: it ends, or does not answer in time.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health", timeout=5, trust_env=False).status_code == 200:
                return url
        time.sleep(POLL_S)
    why = f"it did not answer within {timeout_s:g} s" if process.poll() is None else f"exit code {process.returncode}"
    raise StartError(f"{process.args!r:.200} does not start: {why}")
