"""Join, verify and unpack the parts beside this file: ``python3 unpack.py --to FOLDER``. Needs nothing but Python."""

from __future__ import annotations

import argparse
import compileall
import hashlib
import io
import sys
import tarfile
import time
from pathlib import Path

SUMS = "SHA256SUMS"


class Parts(io.RawIOBase):
    """The parts, read one after the other as one file."""

    def __init__(self, paths: list[Path]) -> None:
        """Open the first of at least one."""
        self._paths = iter(paths)
        self._open = next(self._paths).open("rb")

    def readable(self) -> bool:
        """Say yes."""
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        """Fill the buffer from the parts that are left; 0 at the end."""
        while True:
            count = self._open.readinto(buffer)  # type: ignore[attr-defined]
            following = None if count else next(self._paths, None)
            if count or following is None:
                return int(count)
            self._open.close()
            self._open = following.open("rb")


def verified(folder: Path) -> list[Path]:
    """Return the parts in order.

    Raises:
        SystemExit: one is missing or has another content than its checksum says.
    """
    lines = [line.split() for line in (folder / SUMS).read_text().splitlines()]
    for wanted, name in lines:
        path = folder / name
        if not path.is_file():
            sys.exit(f"error: {path} is missing; parts are {', '.join(name for _, name in lines)}")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != wanted:
            sys.exit(f"error: {path} has SHA-256 {found}, expected {wanted}")
    return [folder / name for _, name in lines]


def extract(archive: tarfile.TarFile, target: Path) -> None:
    """Unpack files and folders below the target, and nothing else, also with a Python before 3.11.4.

    Raises:
        SystemExit: a member would lie elsewhere, or is a link or a device.
    """
    if hasattr(tarfile, "data_filter"):
        archive.extractall(target, filter="data")
        return
    for member in archive:
        path = Path(member.name)
        if path.is_absolute() or ".." in path.parts or not (member.isfile() or member.isdir()):
            sys.exit(f"error: the archive has {member.name!r}; files and folders below {target} are accepted")
        archive.extract(member, target)


def main() -> None:
    """Unpack and compile to bytecode."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--to", type=Path, required=True, help="folder to unpack into")
    target: Path = parser.parse_args().to
    start = time.monotonic()
    parts = verified(Path(__file__).resolve().parent)
    target.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BufferedReader(Parts(parts), 1 << 20), mode="r|xz") as archive:
        extract(archive, target)
    print(f"{len(parts)} parts unpacked into {target}, {time.monotonic() - start:.0f} s", flush=True)
    compileall.compile_dir(target / "site", quiet=2, workers=0)
    print(f"compiled, {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
