"""Run every test in two lanes: what starts engines and platforms, and beside it, at low priority, everything else.

    python tests/lanes.py [--all] [--coverage] [-m MARKS] [PYTEST ARGUMENT ...]

Some of what starts engines and platforms waits for no time (the mark ``untimed``). It is run at the end in pieces, each
by the lane that is free first, so that both end at about the same time, whatever the machine.

Starting a platform leaves a core idle most of the time, and a test of one engine uses one core. The second lane takes
what the first leaves: its processes have a low priority, so times in the first lane are nearly those of a machine of
its own. The first lane's output is shown as it comes, the second's when it ends. Arguments for pytest are for the
platform's tests alone. All runs share the models that one of them has converted.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
PLUGIN = ROOT / "platform" / "vllm-alora"
TIMED = "ray or engine or e2e or integration"
FIRST = f"({TIMED}) and not untimed"
UNTIMED = f"({TIMED}) and untimed"
LONGEST = ("test_loadtests.py", "test_demo.py", "test_catalog.py")
"""Begun first: a lane that begins one of them last would end long after the other."""
MODELS = "TESTED_MODELS"
"""Names the folder that tests take models from, see ``support.model``."""
NO_TESTS = 5
"""pytest's exit code where a selection leaves no test."""
SHUTDOWN_S = 60.0
POLL_S = 0.2
PYTEST = "pytest"
Run = tuple[Path, Sequence[str]]
"""A Python module's run: its folder and arguments."""


class Lane:
    """Runs of Python modules, one after the other, in a process group of their own.

    Args:
        runs: its own.
        shared: those that it takes from afterwards, as another lane may do.
        output: where what they print goes; None is this process's own output.
        niceness: added to this process's.
        environment: beside this process's.
    """

    def __init__(
        self, runs: Sequence[Run], shared: deque[Run], output: IO[str] | None, niceness: int, **environment: str
    ) -> None:
        self.output = output
        self._runs = deque(runs)
        self._shared = shared
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
        left = self._runs or self._shared
        if not left:
            return next((code for code in self._codes if code), 0)
        folder, arguments = left.popleft()
        self._process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=folder,
            env=self._environment,
            stdout=self.output,
            stderr=subprocess.STDOUT if self.output else None,
            text=True,
            start_new_session=True,
            preexec_fn=self._prepare,
        )
        return None

    def _prepare(self) -> None:
        """Lower the priority; in the background a shell has its children ignore interrupts, these must not."""
        os.nice(self._niceness)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def stop(self) -> None:
        """Interrupt the run, so that its fixtures end what they started."""
        self._runs.clear()
        self._shared.clear()
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(SHUTDOWN_S)


def main(arguments: Sequence[str]) -> int:
    """Run both lanes; return the first exit code that is not 0."""
    options, rest = _options(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryDirectory() as models:
        environment = {MODELS: models, "RAY_worker_niceness": "0"}
        shared = deque(_pieces(options, rest))
        first = Lane([_platform_run(FIRST, options, rest)], shared, None, 0, **environment)
        plugin = [PYTEST, "-q"] if options.all else [PYTEST, "-q", "-m", "not slow and not gpu"]
        unit = _platform_run(f"not ({TIMED})", options, rest, covered=options.coverage)
        second = Lane([unit, (PLUGIN, plugin)], shared, output, 5, **environment)
        try:
            return _run((first, second))
        except KeyboardInterrupt:
            for lane in (first, second):
                lane.stop()
            return 130
        finally:
            output.seek(0)
            sys.stdout.write(output.read())
            sys.stdout.flush()
            if options.coverage:
                subprocess.run([sys.executable, "-m", "coverage", "report"], cwd=ROOT, check=False)


def _options(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--all", action="store_true", help="add the slow tests")
    parser.add_argument("--coverage", action="store_true", help="show which lines the second lane runs")
    parser.add_argument("-m", dest="marks", default="", help="of the platform's tests, only those with these marks")
    return parser.parse_known_args(arguments)


def _platform_run(
    marks: str, options: argparse.Namespace, rest: Sequence[str], *, covered: bool = False
) -> tuple[Path, list[str]]:
    chosen = f"({marks}) and ({options.marks})" if options.marks else marks
    chosen = chosen if options.all else f"({chosen}) and not slow"
    runner = ["coverage", "run", "-m"] if covered else []
    return ROOT, [*runner, PYTEST, "-q", "-m", chosen, *rest]


def _pieces(options: argparse.Namespace, rest: Sequence[str]) -> Iterator[Run]:
    """Return runs of what waits for no time; one run where the arguments say which tests, by their paths."""
    if any((ROOT / argument.partition("::")[0]).exists() for argument in rest):
        yield _platform_run(UNTIMED, options, rest)
        return
    files = [path for path in sorted(TESTS.rglob("test_*.py")) if "mark.untimed" in path.read_text()]
    platforms = [path for path in files if path.parent.name == "e2e"]
    for path in sorted(platforms, key=lambda path: LONGEST.index(path.name) if path.name in LONGEST else len(LONGEST)):
        yield _platform_run(UNTIMED, options, [*rest, str(path)])
    # Of the others none takes long, and some have a server that the next one uses, too.
    yield _platform_run(UNTIMED, options, [*rest, *(str(path) for path in files if path not in platforms)])


def _run(lanes: Sequence[Lane]) -> int:
    while True:
        codes = [lane.advance() for lane in lanes]
        if None not in codes:
            return next((code for code in codes if code), 0)
        time.sleep(POLL_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
