"""The steps of ``deploy/images/Dockerfile``, run on this machine without a container engine.

A mount namespace of its own has this machine's file system with everything that is written kept apart (overlayfs), so
each RUN line is executed as it stands. What differs from a build: the base is this machine and not the image that FROM
names, and both stages share one root, from which the build stage's own files are removed before the second.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pathspec import GitIgnoreSpec

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "deploy" / "images" / "Dockerfile"
BUILD = "/build"
STATE = "/var/lib/aloraserve"
STEP_S = 900.0
INDEX = re.compile(r"PIP_\w+|UV_\w+|SSL_CERT_\w+|(https?|no|all)_proxy", re.IGNORECASE)
"""Variables that say how this machine reaches package indexes: builds have them, images have not."""
CHECKS = {
    "gateway": "import aloraserve_services.app, ray; print('ray', ray.__version__)",
    "cpu": "import torch, vllm, vllm_alora, aloraserve_services.app; print('vllm', vllm.__version__)",
    "cuda": "import importlib.metadata as m; print('vllm', m.version('vllm'))",
}
"""What has to run in an image of each profile."""
_MOUNTS = """
set -e
mount -t tmpfs tmpfs {0}
mkdir -p {0}/upper {0}/work {0}/root
mount -t overlay overlay -o lowerdir=/,upperdir={0}/upper,workdir={0}/work {0}/root
for shared in proc sys dev; do mount --rbind /$shared {0}/root/$shared; done
mount -t tmpfs -o mode=1777 tmpfs {0}/root/tmp
echo ready
exec sleep infinity
"""


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions in order, each with what follows it."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines if line)]


def in_context(path: Path) -> bool:
    """Return whether a file is sent to a build, as ``.dockerignore`` says."""
    ignored = GitIgnoreSpec.from_lines((ROOT / ".dockerignore").read_text().splitlines())
    return not ignored.match_file(path.relative_to(ROOT))


@dataclass
class ImageRoot:
    """A root file system in a mount namespace, and commands that run in it.

    Args:
        holder: the process that keeps the namespace.
        folder: where what is written lies.
        variables: of the instructions so far, ARG and ENV.
    """

    holder: int
    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    def run(
        self, *command: str, user: int = 0, timeout_s: float = STEP_S, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the root with the image's environment; return what came of it."""
        return subprocess.run(
            self.command(*command, user=user, **variables), text=True, capture_output=True, timeout=timeout_s
        )

    def command(self, *command: str, user: int = 0, **variables: str) -> list[str]:
        """Return the command line that does so."""
        shown = [f"{name}={value}" for name, value in (self.variables | variables).items()]
        chroot = ["chroot", f"--userspec={user}:{user}", "--groups=", str(self.folder / "root"), "env", "-i", *shown]
        return ["nsenter", "--target", str(self.holder), "--mount", *chroot, *command]

    def outside(self, *command: str) -> None:
        """Run a command in the namespace, outside the root."""
        self._check(["nsenter", "--target", str(self.holder), "--mount", *command], command)

    def path(self, inside: str) -> str:
        """Return the place of a path of the root, in the namespace."""
        return f"{self.folder / 'root'}{inside}"

    def build(self, arguments: Mapping[str, str]) -> None:
        """Carry out the Dockerfile.

        Args:
            arguments: of the build, as ``--build-arg`` gives them.
        """
        self._give_python()
        reached = {name: value for name, value in os.environ.items() if INDEX.fullmatch(name)}
        for name, rest in instructions():
            match name:
                case "FROM" if self._has(BUILD):
                    # The second stage has of the first what it copies.
                    self.outside("rm", "-rf", self.path(BUILD))
                case "ARG":
                    key, _, default = rest.partition("=")
                    self.variables[key] = arguments.get(key, default)
                case "ENV":
                    self.variables |= dict(pair.split("=", 1) for pair in rest.split())
                case "COPY" if not rest.startswith("--from="):
                    *sources, target = rest.split()
                    self._copy(sources, target)
                case "RUN":
                    self._check(self.command("sh", "-c", rest, **reached), rest)

    def make_read_only(self) -> None:
        """Have nothing written any more but to the state folder and ``/tmp``."""
        self.outside("mount", "-t", "tmpfs", "-o", "uid=10001,gid=10001,mode=0700", "tmpfs", self.path(STATE))
        self.outside("mount", "-o", "remount,ro", self.path(""))

    def _give_python(self) -> None:
        """Have this interpreter found first, by every user."""
        base = Path(sys.base_prefix)
        for folder in (base, *base.parents):
            self.outside("chmod", "o+rx", self.path(str(folder)))
        self.variables |= {"PATH": f"{base}/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}

    def _has(self, inside: str) -> bool:
        return self.run("test", "-e", inside).returncode == 0

    def _copy(self, sources: Sequence[str], target: str) -> None:
        place = self.path(target)
        self.outside("mkdir", "-p", place if target.endswith("/") else str(Path(place).parent))
        for source in (ROOT / name for name in sources):
            assert in_context(source), f"{source} is not sent to a build"
            if source.is_file():
                self.outside("cp", str(source), place)
                continue
            with tempfile.TemporaryDirectory() as context:
                kept = shutil.copytree(source, Path(context, source.name), ignore=_left_out)
                self.outside("cp", "-r", str(kept), place)

    def _check(self, command: Sequence[str], shown: object) -> None:
        done = subprocess.run(command, text=True, capture_output=True, timeout=STEP_S)
        assert done.returncode == 0, f"{shown}\n{done.stdout}\n{done.stderr}"


def _left_out(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if not in_context(Path(folder, name))}


@contextmanager
def image_root(folder: Path) -> Iterator[ImageRoot]:
    """Make a root for the time of the context.

    Args:
        folder: an empty one; what is written stays in memory.

    Raises:
        OSError: the kernel, or a container around this process, allows no such mounts.
    """
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _MOUNTS.format(folder)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        if holder.stdout.readline() != "ready\n":
            raise OSError("no overlay file system can be mounted here")
        yield ImageRoot(holder.pid, folder)
    finally:
        holder.kill()
        holder.communicate()


def main(profiles: Sequence[str]) -> None:
    """Carry out the Dockerfile for each profile, and say what came of it."""
    for profile in profiles:
        with tempfile.TemporaryDirectory() as folder, image_root(Path(folder)) as root:
            # Where PyTorch's own index is out of reach, this machine's has its build for CPUs.
            root.build({"PROFILE": profile, "TORCH_INDEX": ""})
            root.make_read_only()
            done = root.run("python", "-c", CHECKS[profile], user=10001)
            assert done.returncode == 0, done.stderr
            size = int(root.run("du", "-sm", "/opt/aloraserve").stdout.split()[0])
            print(f"{profile}: {done.stdout.strip()}, {size} MiB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or ["gateway", "cpu"])
