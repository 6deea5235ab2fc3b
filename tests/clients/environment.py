"""A client's own virtual environment, made from its lock."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ROOT / "deploy" / "install" / "clients"
ENVIRONMENTS = ROOT / ".clients"
INSTALL_TIMEOUT_S = 1200


class Environment:
    """An environment with what a lock names.

    Args:
        name: of the lock, and of the folder below ``.clients``.
        sees_ours: whether it also sees this environment's packages, after its own: torch is one, which would be
            gigabytes from the package index.
    """

    def __init__(self, name: str, *, sees_ours: bool = False) -> None:
        self._lock = LOCKS / f"{name}.txt"
        self._folder = ENVIRONMENTS / name
        self._sees_ours = sees_ours

    def command(self, name: str) -> str:
        """Return the path of a command that is installed there."""
        return str(self._folder / "bin" / name)

    def make(self) -> None:
        """Install what the lock names, unless that was done before.

        Raises:
            subprocess.CalledProcessError: it cannot be installed.
        """
        done, wanted = self._folder / "installed.txt", self._lock.read_text("utf-8")
        if done.is_file() and done.read_text("utf-8") == wanted:
            return
        _run(sys.executable, "-m", "venv", "--clear", str(self._folder))
        _run(self.command("python"), "-m", "pip", "install", "-qq", "--no-deps", "-r", str(self._lock))
        if self._sees_ours:
            [packages] = self._folder.glob("lib/python*/site-packages")
            (packages / "zz_ours.pth").write_text(sysconfig.get_path("purelib") + "\n")
        done.write_text(wanted, "utf-8")

    def version(self, package: str) -> str:
        """Return which version of a package is locked."""
        lines = self._lock.read_text("utf-8").splitlines()
        return next(line.split("==")[1].split(" ")[0] for line in lines if line.startswith(f"{package}=="))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=INSTALL_TIMEOUT_S)
