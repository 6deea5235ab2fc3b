"""Bare engines, started by ``aloraserve engine --simulated``, and other servers of benchmarks."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import httpx

from aloraserve.errors import StartError
from aloraserve_services.cli.own_platform import free_port
from aloraserve_services.local.address import check_port
from benchmarks.harness.detached_platform import COMMAND

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 10.0
POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class BareEngines:
    """Engines that run.

    Args:
        urls: their addresses.
        pid: of the process that all of them descend from.
    """

    urls: tuple[str, ...]
    pid: int


@contextlib.contextmanager
def bare_engines(count: int, *flags: str) -> Iterator[BareEngines]:
    """Run engines for the time of the context; yield where they are.

    Args:
        count: how many.
        flags: of ``aloraserve engine``, beside those of the kind and the port.

    Raises:
        StartError: one does not start.
    """
    first = free_ports(count)
    command = (*COMMAND, "engine", "--simulated", "--port", str(first), "--count", str(count), *flags)
    with server_process(command) as process:
        urls = [wait_for_health(f"http://127.0.0.1:{first + number}", process) for number in range(count)]
        yield BareEngines(tuple(urls), process.pid)


def free_ports(count: int) -> int:
    """Return the first of some ports in a row that nothing listens on."""
    while True:
        first = free_port()
        with contextlib.suppress(StartError, OverflowError):
            for number in range(count):
                check_port("127.0.0.1", first + number)
            return first


@contextlib.contextmanager
def server_process(
    command: Sequence[str], variables: Mapping[str, str] = MappingProxyType({})
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command, silently, for the time of the context.

    Args:
        command: with its arguments.
        variables: of the environment, beside those of this process.
    """
    environment = {**os.environ, **variables}
    with subprocess.Popen(  # noqa: S603
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_for_health(url: str, process: subprocess.Popen[bytes], timeout_s: float = START_TIMEOUT_S) -> str:
    """Return the address of a server once ``/health`` answers; raises like :func:`wait_for_answer`."""
    health = f"{url}/health"
    return wait_for_answer(url, process, lambda: httpx.get(health, timeout=5, trust_env=False).is_success, timeout_s)


def wait_for_answer(
    url: str, process: subprocess.Popen[bytes], answers: Callable[[], bool], timeout_s: float = START_TIMEOUT_S
) -> str:
    """Return the address of a server once a request succeeds.

    Args:
        url: the address.
        process: of the server.
        answers: makes the request; a failure of the transport counts as no answer.
        timeout_s: how long that may take.

    Raises:
        StartError: it ends, or does not answer in time.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if answers():
                return url
        time.sleep(POLL_S)
    why = f"it did not answer within {timeout_s:g} s" if process.poll() is None else f"exit code {process.returncode}"
    raise StartError(f"{process.args!r:.200} does not start: {why}")
