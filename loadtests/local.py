"""A platform of the load test's own on this machine: started, waited for, stopped."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from aloraserve_services.models.hardware import preferred_dtype
from aloraserve_services.models.model_files import ensure_smollm2
from aloraserve_services.models.untrained import write_untrained_adapters
from benchmarks.harness.detached_platform import detached_platform
from loadtests.plan import INTRINSICS


def adapters_folder(state_dir: Path, model_path: Path) -> Path:
    """Write five untrained aLoRA adapters and their LoRA twins, unless they are there; return their folder."""
    folder = state_dir / "loadtest-adapters" / model_path.name
    write_untrained_adapters(folder, model_path, names=INTRINSICS)
    return folder


@contextlib.contextmanager
def loadtest_platform(
    *,
    engine: str,
    replicas: int,
    policy: str,
    state_dir: Path,
    kv_cache_gib: float | None = None,
    grpc_port: int | None = None,
) -> Iterator[str]:
    """Run a platform for the time of the context; yield its URL.

    Args:
        engine: "vllm" or "simulated".
        replicas: engines.
        policy: of its router.
        state_dir: where models, adapters and the run file are.
        kv_cache_gib: of each replica, the default if None.
        grpc_port: of its gRPC API, None without one.

    Raises:
        StartError: it does not start.
    """
    folder = adapters_folder(state_dir, ensure_smollm2(state_dir, dtype=preferred_dtype()))
    # Every adapter of the test may run at once: none is loaded while something is measured.
    variables = {"ALORASERVE_MAX_LORAS": str(2 * len(INTRINSICS))}
    if kv_cache_gib is not None:
        variables["ALORASERVE_KV_CACHE_GIB"] = str(kv_cache_gib)
    flags: tuple[str, ...] = (
        "--engine",
        engine,
        "--replicas",
        str(replicas),
        "--policy",
        policy,
        "--adapters-dir",
        str(folder),
    )
    if grpc_port is not None:
        flags = (*flags, "--grpc-port", str(grpc_port))
    with detached_platform(*flags, state_dir=state_dir, variables=variables) as running:
        yield running.url
