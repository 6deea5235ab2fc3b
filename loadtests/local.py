"""A platform of the load test's own on this machine: started, waited for, stopped."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from loadtests.plan import INTRINSICS

START_TIMEOUT_S = 600


class PlatformError(Exception):
    """Raised when the platform does not start; says what it said."""


def adapters_folder(state_dir: Path, model_path: Path) -> Path:
    """Write five untrained aLoRA adapters and their LoRA twins, unless they are there; return their folder."""
    from aloraserve_services.models.untrained import write_untrained_adapters

    folder = state_dir / "loadtest-adapters" / model_path.name
    write_untrained_adapters(folder, model_path, names=INTRINSICS)
    return folder


@contextlib.contextmanager
def local_platform(
    *, engine: str, replicas: int, policy: str, state_dir: Path, kv_cache_gib: float | None = None
) -> Iterator[str]:
    """Run a platform for the time of the context; yield its URL.

    Args:
        engine: "vllm" or "simulated".
        replicas: engines.
        policy: of its router.
        state_dir: where models, adapters and the run file are.
        kv_cache_gib: of each replica, the default if None.

    Raises:
        PlatformError: it does not start.
    """
    from aloraserve_services.models.hardware import preferred_dtype
    from aloraserve_services.models.model_files import ensure_smollm2

    folder = adapters_folder(state_dir, ensure_smollm2(state_dir, dtype=preferred_dtype()))
    port = _free_port()
    command = [sys.executable, "-m", "aloraserve_services.cli.main"]
    # Every adapter of the test may run at once: none is loaded while something is measured.
    environment = {**os.environ, "ALORASERVE_MAX_LORAS": str(2 * len(INTRINSICS))}
    if kv_cache_gib is not None:
        environment["ALORASERVE_KV_CACHE_GIB"] = str(kv_cache_gib)
    same = ("--state-dir", str(state_dir))
    flags = ("--engine", engine, "--replicas", str(replicas), "--policy", policy, "--adapters-dir", str(folder))
    up = [*command, "up", "--detach", "--port", str(port), *same, *flags]
    with subprocess.Popen(  # noqa: S603
        up, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as starting:
        try:
            _, errors = starting.communicate(timeout=START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise PlatformError(f"the platform did not start within {START_TIMEOUT_S} s") from None
        finally:
            # If it still runs, it ends what it was starting.
            starting.terminate()
    if starting.returncode:
        raise PlatformError(f"the platform does not start: {errors[-1500:]}")
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        subprocess.run([*command, "down", *same], capture_output=True, timeout=120)  # noqa: S603


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
