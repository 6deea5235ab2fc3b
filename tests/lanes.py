"""Run every test in two lanes: what starts engines and platforms, and beside it, at low priority, everything else.

    python tests/lanes.py [--all] [PYTEST ARGUMENT ...]

Starting a platform leaves a core idle most of the time, and a test of one engine uses one core. The second lane takes
what the first leaves: its processes have a low priority, so times in the first lane are nearly those of a machine of
its own. The first lane's output is shown as it comes, the second's when it ends. ``--all`` adds the plugin's slow
tests. Other arguments are for the platform's tests alone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
PLUGIN = ROOT / "platform" / "vllm-alora"
FIRST = "ray or engine or e2e or integration"
NO_TESTS = 5
"""pytest's exit code where a selection leaves no test."""
SHUTDOWN_S = 60.0


class Lane:
    """Runs of pytest, one after the other, in a process group of their own.

    Args:
        runs: folder and arguments of each.
        output: where what they print goes; None is this process's own output.
        niceness: added to this process's.
        environment: beside this process's.
    """

    def __init__(
        self, runs: Sequence[tuple[Path, Sequence[str]]], output: IO[str] | None, niceness: int, **environment: str
    ) -> None:
        self.output = output
        self._runs = list(runs)
        self._niceness = niceness
        self._environment = {**os.environ, **environment}
        self._process: subprocess.Popen[str] | None = None
        self._codes: list[int] = []

    def advance(self) -> int | None:
        """Start the next run if the last one has ended; return the lane's exit code once all have."""
        if self._process is not None:
            code = self._process.poll()
            if code is None:
                return None
            self._codes.append(0 if code == NO_TESTS else code)
            self._process = None
        if not self._runs:
            return next((code for code in self._codes if code), 0)
        folder, arguments = self._runs.pop(0)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", *arguments],
            cwd=folder,
            env=self._environment,
            stdout=self.output,
            stderr=subprocess.STDOUT if self.output else None,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: os.nice(self._niceness),
        )
        return None

    def stop(self) -> None:
        """Interrupt the run, so that its fixtures end what they started."""
        self._runs.clear()
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(SHUTDOWN_S)


def main(arguments: Sequence[str]) -> int:
    """Run both lanes; return the first exit code that is not 0."""
    with_slow = "--all" in arguments
    rest = [argument for argument in arguments if argument != "--all"]
    plugin = [] if with_slow else ["-m", "not slow and not gpu"]
    with tempfile.TemporaryFile("w+") as output:
        first = Lane([(ROOT, ["-m", FIRST, *rest])], None, 0, RAY_worker_niceness="0")
        second = Lane([(ROOT, ["-m", f"not ({FIRST})", *rest]), (PLUGIN, plugin)], output, 10)
        try:
            codes: list[int | None] = [None, None]
            while None in codes:
                codes = [lane.advance() for lane in (first, second)]
                time.sleep(0.2)
        except KeyboardInterrupt:
            for lane in (first, second):
                lane.stop()
            return 130
        finally:
            output.seek(0)
            sys.stdout.write(output.read())
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
