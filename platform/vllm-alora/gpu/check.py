"""Check the plugin on a GPU machine: ``python3 check.py --site FOLDER/site --out REPORT``. Some eight minutes.

Phases, each in processes of its own with a time limit: tests (every engine of ``test_gpu.py``), ttft,
throughput. The report is written after each; ``--only`` runs some again and keeps what the others found.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from report import Report, tests_of, tests_so_far

PLUGIN = Path(__file__).resolve().parents[1]
START = time.monotonic()

ENGINES = (
    "v2_graphs",
    "v1_graphs",
    "v2_eager",
    "v1_eager",
    "moe",
    "v2_compiled",
    "v1_compiled",
    "offload",
    "sleep",
    "stock",
)
"""What ``-k`` chooses of the tests, a process each: small models, one GPU. The most important ones first."""
AT_ONCE = 5
"""More of them on 16 cores hold each other up: nine took over three minutes each."""
LIMIT_S = {"tests": 420, "ttft": 180, "throughput": 120}
"""Of a whole phase."""
PHASES = tuple(LIMIT_S)
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
    "PYTHONUNBUFFERED": "1",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    "OMP_NUM_THREADS": "2",
    "VLLM_USE_AOT_COMPILE": "0",
}
"""So that nothing looks for a network, for FlashInfer, which the kit leaves out, or for what PyTorch 2.11 has not, or
takes every core."""
TESTS = ("tests/test_gpu.py", "tests/test_gpu_moe.py")


def say(text: str) -> None:
    """Print a line with the time since the start, at once."""
    print(f"[{time.monotonic() - START:4.0f} s] {text}", flush=True)


def main() -> None:
    """Run the phases; exit with 1 if a test failed or a phase did not end."""
    options = _arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    environment = _environment(options)
    report = Report.load(options.out)
    report.machine = _machine(environment)
    say(", ".join(f"{name} {value}" for name, value in report.machine.items()))
    with tempfile.TemporaryDirectory(prefix="alora-check-") as scratch:
        for phase in options.only:
            say(f"{phase}: starts")
            if phase == "tests":
                _run_tests(Path(scratch), options, environment, report)
            else:
                _measure(phase, Path(scratch), options, environment, report)
            report.write(options.out)
    say(f"report: {options.out / 'report.md'}")
    sys.exit(0 if report.is_good else 1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--site", type=Path, help="the unpacked kit's packages (default: those beside this plugin)")
    parser.add_argument(
        "--out", type=Path, default=Path("gpu-report"), help="folder of the report (default: gpu-report)"
    )
    parser.add_argument("--only", nargs="+", choices=PHASES, default=PHASES, help="phases to run (default: all)")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES, help="of the tests (default: all)")
    parser.add_argument(
        "--attention", help="vLLM's attention backend, for example TRITON_ATTN (default: vLLM's choice)"
    )
    parser.add_argument(
        "--compile", action="store_true", help="measure with torch.compile and vLLM's default graphs, a minute longer"
    )
    return parser.parse_args()


def _environment(options: argparse.Namespace) -> dict[str, str]:
    site = options.site or PLUGIN.parent / "site"
    paths = [str(PLUGIN), *([str(site.resolve())] if site.is_dir() else []), os.environ.get("PYTHONPATH", "")]
    settings = {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    if options.attention:
        settings["ALORA_CHECK_ATTENTION"] = options.attention
    if options.compile:
        settings["ALORA_CHECK_COMPILE"] = "1"
    return {**os.environ, **settings}


def _machine(environment: dict[str, str]) -> dict[str, str]:
    """Ask another process, so that this one never holds the GPU."""
    code = """
import torch, triton, transformers, peft, vllm
gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
print("GPU", f"{gpu.name}, {gpu.total_memory >> 30} GiB" if gpu else "none", sep="=")
for module in (torch, triton, transformers, peft, vllm): print(module.__name__, module.__version__, sep="=")
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)  # noqa: S603
    found = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    if not found or found.get("GPU") == "none":
        sys.exit(f"error: needs a CUDA GPU, PyTorch, Triton, transformers, peft and vLLM:\n{done.stdout}{done.stderr}")
    return found


def _run_tests(scratch: Path, options: argparse.Namespace, environment: dict[str, str], report: Report) -> None:
    deadline = time.monotonic() + LIMIT_S["tests"]

    def run(name: str) -> None:
        _run_engine(name, scratch, environment, report, deadline)
        report.write(options.out)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(run, options.engines))
    logs = [(name, scratch / f"{name}.log") for name in options.engines]
    joined = "".join(f"\n===== {name} =====\n{log.read_text(errors='replace')[-400_000:]}" for name, log in logs)
    (options.out / "tests.log").write_text(joined)


def _run_engine(name: str, scratch: Path, environment: dict[str, str], report: Report, deadline: float) -> None:
    xml = scratch / f"{name}.xml"
    command = [sys.executable, "-m", "pytest", "-c", "gpu/pytest.ini", "-m", "gpu", "-k", name, *TESTS]
    command += [f"--junitxml={xml}", "-v", "-rA", "--tb=long", "--durations=0", "-o", "faulthandler_timeout=60"]
    seconds, code = _run(command, scratch / f"{name}.log", environment, max(0.0, deadline - time.monotonic()))
    found = tests_of(xml) if xml.is_file() else tests_so_far(scratch / f"{name}.log")
    report.tests[name] = {**found, "seconds": round(seconds), "exit": code}
    say(f"tests {name}: {report.tests[name]['summary']}, exit {code}, {seconds:.0f} s")
    _explain(scratch / f"{name}.log", code)


def _measure(
    phase: str, scratch: Path, options: argparse.Namespace, environment: dict[str, str], report: Report
) -> None:
    found = scratch / f"{phase}.json"
    command = [sys.executable, str(PLUGIN / "gpu" / "measure.py"), phase, "--json", str(found)]
    seconds, code = _run(command, options.out / f"{phase}.log", environment, LIMIT_S[phase], echo=True)
    report.add_measured(phase, found, code, seconds)
    say(f"{phase}: exit {code}, {seconds:.0f} s")
    _explain(options.out / f"{phase}.log", code)


def _explain(log: Path, code: int) -> None:
    """Show what went wrong: the lines that pytest marks as an error's, or else the last ones."""
    if code:
        lines = log.read_text(errors="replace").splitlines()
        for line in ([line for line in lines if line.startswith("E   ")] or lines)[-6:]:
            say(f"    {line[:300]}")


def _run(
    command: list[str], log: Path, environment: dict[str, str], limit_s: float, *, echo: bool = False
) -> tuple[float, int]:
    """Run a command into a log; return its seconds and exit code, -9 for one that outran its limit."""
    start = time.monotonic()
    with log.open("w") as stream:
        process: Any = subprocess.Popen(  # noqa: S603
            command, cwd=PLUGIN, env=environment, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            _wait(process, log if echo else None, start + limit_s)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 9)
                process.wait()
    return time.monotonic() - start, process.returncode


def _wait(process: Any, log: Path | None, deadline: float) -> None:
    """Wait for the end or the deadline; show what a measurement says meanwhile."""
    shown = 0
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.5)
        shown = _show(log, shown)
    _show(log, shown)


def _show(log: Path | None, shown: int) -> int:
    if log is None:
        return 0
    lines = log.read_text(errors="replace").splitlines()
    for line in lines[shown:]:
        if line.startswith("  "):
            say(line.strip()[:200])
    return len(lines)


if __name__ == "__main__":
    main()
