"""What the gateway benchmark compares: platforms, other projects' routers and servers, and bare engines."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from aloraserve.engine_model.calibration import load
from aloraserve.settings import Settings
from aloraserve_services.cli.own_platform import free_port
from aloraserve_services.models.model_files import resolve_model
from aloraserve_services.models.untrained import twin_adapters
from benchmarks.gateway_calls import Arm
from benchmarks.gateway_real import vllm_servers
from benchmarks.harness.bare_engines import BareEngines, bare_engines, server_process, wait_for_answer
from benchmarks.harness.calibrations import calibration_file, instant
from benchmarks.harness.detached_platform import detached_platform
from benchmarks.harness.processes import PlatformProcesses
from benchmarks.harness.routers import ROUTERS, router
from benchmarks.serve_llm import DIRECT

TOKEN_S = 0.001
THIS, BASELINE, BARE = "this", "baseline", "bare engines"
SERVE_LLM = "Ray Serve LLM"
SERVE_LLM_START_S = 240.0


@dataclass(frozen=True, slots=True)
class Others:
    """What is measured beside this platform and the bare engines.

    Args:
        baseline: another checkout of this project.
        routers_venv: environment with the other routers.
        serve_llm_venv: environment that Ray Serve LLM runs in.
    """

    baseline: Path | None = None
    routers_venv: Path | None = None
    serve_llm_venv: Path | None = None


class GatewayArms:
    """Starts the arms.

    Args:
        settings: of the platform; the number of engines is the same everywhere.
        others: see :class:`Others`.
        progress: called with what happens.

    Attributes:
        model: folder of the model.
    """

    def __init__(self, settings: Settings, others: Others, progress: Callable[[str], None]) -> None:
        _, self.model = resolve_model(settings.model, settings.state_dir, "float32", progress=progress)
        self._adapters = twin_adapters(settings.state_dir, self.model)
        self._settings = settings
        self._others = others
        self._progress = progress

    @contextlib.contextmanager
    def simulated(self) -> Iterator[list[Arm]]:
        """Run all arms with engines that calls need not wait for: this platform first, the bare engines last."""
        with contextlib.ExitStack() as stack:
            times = stack.enter_context(calibration_file(instant(load("live-peers"), token_s=TOKEN_S)))
            flags = ("--model", str(self.model), "--adapters-dir", str(self._adapters), "--calibration", str(times))
            bare = stack.enter_context(bare_engines(self._settings.replicas, *flags))
            self._progress(f"{len(bare.urls)} bare engines answer")
            found = [stack.enter_context(self._platform(THIS, None, "--engine", "simulated", *flags))]
            if self._others.baseline is not None:
                before = self._platform(BASELINE, self._others.baseline, "--engine", "simulated", *flags)
                found.append(stack.enter_context(before))
            if self._others.routers_venv is not None:
                names = [name for name, other in ROUTERS.items() if not other.with_session]
                found += [stack.enter_context(self._router(name, self._others.routers_venv, bare)) for name in names]
            if self._others.serve_llm_venv is not None:
                variables = {"ALORASERVE_CALIBRATION": str(times), "ALORASERVE_ADAPTERS_DIR": str(self._adapters)}
                found.append(stack.enter_context(self._serve_llm(self._others.serve_llm_venv, variables)))
            yield [*found, Arm(BARE, bare.urls, PlatformProcesses(None, bare.pid))]

    @contextlib.contextmanager
    def real(self) -> Iterator[list[Arm]]:
        """Run this platform, Ray Serve LLM and bare ``vllm serve`` with real engines, the bare ones last."""
        flags = ("--engine", "vllm", "--dtype", "float32", "--model", str(self.model))
        with contextlib.ExitStack() as stack:
            bare = stack.enter_context(vllm_servers(self._settings, self.model))
            self._progress(f"{len(bare)} bare vLLM servers answer")
            found = [stack.enter_context(self._platform(THIS, None, *flags))]
            if self._others.serve_llm_venv is not None:
                variables = {"ALORASERVE_DTYPE": "float32"}
                found.append(stack.enter_context(self._serve_llm(self._others.serve_llm_venv, variables, "--real")))
            yield [*found, Arm(BARE, bare)]

    @contextlib.contextmanager
    def _platform(self, name: str, checkout: Path | None, *flags: str) -> Iterator[Arm]:
        counts = ("--replicas", str(self._settings.replicas), "--gateways", str(self._settings.gateways))
        with (
            tempfile.TemporaryDirectory(prefix="alora-bench-") as folder,
            detached_platform(*counts, *flags, state_dir=Path(folder), checkout=checkout) as running,
        ):
            self._progress(f"{name} is ready at {running.url}")
            yield Arm(name, (running.url,), PlatformProcesses(running.pid))

    @contextlib.contextmanager
    def _router(self, name: str, venv: Path, engines: BareEngines) -> Iterator[Arm]:
        with router(name, venv, engines.urls) as (url, pid):
            self._progress(f"{name} answers")
            yield Arm(name, (url,), PlatformProcesses(pid, engines.pid))

    @contextlib.contextmanager
    def _serve_llm(self, venv: Path, variables: dict[str, str], *flags: str) -> Iterator[Arm]:
        url = f"http://127.0.0.1:{(port := free_port())}"
        command = (str(venv / "bin" / "python"), "-m", "benchmarks.serve_llm", "--port", str(port))
        sizes = ("--replicas", str(self._settings.replicas), "--model", str(self.model))
        given = {
            **DIRECT,
            **variables,
            "ALORASERVE_MODEL": str(self.model),
            "ALORASERVE_STATE_DIR": str(self._settings.state_dir),
            "PYTHONPATH": ":".join(sys.path[1:]),
        }
        with server_process((*command, *sizes, *flags), given) as process:
            wait_for_answer(url, process, lambda: _serves(url, self.model.name), SERVE_LLM_START_S)
            self._progress(f"{SERVE_LLM} answers")
            yield Arm(SERVE_LLM, (url,), PlatformProcesses(process.pid))


def _serves(url: str, model: str) -> bool:
    body = {"model": model, "prompt": "ready", "max_tokens": 1}
    answer = httpx.post(f"{url}/v1/completions", json=body, timeout=30, trust_env=False)
    return answer.status_code == httpx.codes.OK
