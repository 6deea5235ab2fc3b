"""Run real clients, unchanged, against a platform of one real engine, and print a table of them.

    python -m clients [NAME ...]

Environments are made below ``.clients`` from the locks in ``deploy/install/clients``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from support.shown_model import write_shown_model

from aloraserve_services.models.model_files import ensure_smollm2
from benchmarks.harness.detached_platform import detached_platform
from clients.runs import RUNS, ClientRun, Target

RUN_TIMEOUT_S = 300
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"} | {"DO_NOT_TRACK": "1"}
"""aiperf takes no folder for a tokenizer where the hub is off."""


def main() -> int:
    """Run the clients that were named, or all; return how many failed."""
    names = [run.name for run in RUNS]
    parser = argparse.ArgumentParser(prog="clients", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of clients: {', '.join(names)} (default: all)")
    wanted = parser.parse_args().names or names
    if unknown := sorted(set(wanted) - set(names)):
        parser.error(f"{unknown[0]!r} is not a client; known are {', '.join(names)}")
    chosen = [run for run in RUNS if run.name in wanted]
    for run in chosen:
        if run.environment is not None:
            print(f"environment of {run.name} {run.version}", flush=True)
            run.environment.make()
    with tempfile.TemporaryDirectory() as folder:
        model = write_shown_model(ensure_smollm2(Path(folder), dtype="float32"), Path(folder))
        flags = ("--replicas", "1", "--dtype", "float32", "--model", str(model))
        with detached_platform(*flags, state_dir=Path(folder) / "state") as platform:
            failed = [
                run for run in chosen if not _succeeds(run, Target(platform.url, model.name, model, Path(folder)))
            ]
    _print_table(chosen, failed)
    return len(failed)


def _succeeds(run: ClientRun, target: Target) -> bool:
    begun = time.monotonic()
    done = subprocess.run(
        run.command(target),
        text=True,
        capture_output=True,
        timeout=RUN_TIMEOUT_S,
        env=ENVIRONMENT,
    )
    problem = "" if done.returncode == 0 else (done.stdout + done.stderr)[-3000:]
    if not problem:
        try:
            run.check(target, done.stdout)
        except (AssertionError, OSError, ValueError, KeyError) as error:
            problem = f"{type(error).__name__}: {str(error)[:3000]}"
    print(f"{run.name} {run.version}: {'failed' if problem else 'ok'} in {time.monotonic() - begun:.0f} s", flush=True)
    if problem:
        print(problem, flush=True)
    return not problem


def _print_table(chosen: list[ClientRun], failed: list[ClientRun]) -> None:
    print("\n| client | version | does | result |\n|---|---|---|---|")
    for run in chosen:
        print(f"| {run.name} | {run.version} | {run.does} | {'failed' if run in failed else 'runs'} |")


if __name__ == "__main__":
    sys.exit(main())
