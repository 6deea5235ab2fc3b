"""Pack what a GPU machine without a network needs to check this plugin: vLLM's CUDA build, the plugin, the tests.

The machine has Python 3.12, PyTorch for CUDA 13, Triton, transformers, peft, pytest and what these bring; the kit holds
the rest. Parts lie in the output folder with their checksums and ``unpack.py``.

    python3 kit.py --out dist/gpu-kit                 # for an H100 or H200
    python3 kit.py --architecture all                 # for any GPU; three times as large
"""

from __future__ import annotations

import argparse
import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from fatbin import keep_architecture

VLLM = "vllm==0.32.0"
HERE = Path(__file__).resolve().parent
PLUGIN = HERE.parent
PART_BYTES = 58 * 1000 * 1000
PRESET = 3
"""Of xz: levels above take minutes longer and save a tenth."""

LIBRARIES = (
    "vllm/_C_stable_libtorch.abi3.so",
    "vllm/_moe_C_stable_libtorch.abi3.so",
    "vllm/cumem_allocator.abi3.so",
    "vllm/fs_io_C.abi3.so",
    "vllm/spinloop.abi3.so",
    "vllm/vllm_flash_attn/_vllm_fa3_C.abi3.so",
)
"""Compiled files of vLLM that the check needs; FlashAttention 3 is for Hopper, others take Triton's attention."""
UNUSED = (
    "mistral_common/data/",
    "pycountry/locales/",
    "vllm/third_party/deep_gemm/",
    "vllm/third_party/fmha_sm100/cutlass/",
    "vllm/vllm-rs",
)
OWN = ("vllm_alora", "tests", "benchmarks", "gpu", "pyproject.toml")
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(39, 4, -1)] + ["manylinux2014_x86_64"]
"""pip takes these names literally: a wheel for glibc 2.28 is not found by asking for 2.39."""


def main() -> None:
    """Download, choose, pack."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("dist/gpu-kit"), help="default: dist/gpu-kit")
    parser.add_argument(
        "--wheels", type=Path, help="folder to keep the downloaded wheels in (default: a temporary one)"
    )
    parser.add_argument("--architecture", default="90", help="the only GPU to keep code for (default: 90), or all")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gpu-kit-") as scratch:
        wheels = (options.wheels or Path(scratch) / "wheels").resolve()
        _download(wheels)
        archive = Path(scratch) / "kit.tar.xz"
        with tarfile.open(archive, "w:xz", preset=PRESET) as tar:
            for wheel in sorted(wheels.glob("*.whl")):
                _add_wheel(tar, wheel, options.architecture)
            _add_own(tar)
        _write_parts(archive, options.out)


def _download(folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    command += ["--python-version", "3.12", "--implementation", "cp"]
    for platform in PLATFORMS:
        command += ["--platform", platform]
    print(f"downloading {VLLM} and what it needs", flush=True)
    subprocess.run([*command, VLLM, "-r", str(HERE / "wheels.txt")], check=True)  # noqa: S603


def _add_wheel(tar: tarfile.TarFile, wheel: Path, architecture: str) -> None:
    is_vllm = wheel.name.startswith("vllm-")
    print(f"packing {wheel.name}", flush=True)
    with zipfile.ZipFile(wheel) as content:
        for name in content.namelist():
            if name.endswith("/") or name.startswith(UNUSED) or (is_vllm and not _is_wanted(name)):
                continue
            data = content.read(name)
            if is_vllm and name in LIBRARIES[:2] and architecture != "all":
                data = keep_architecture(data, int(architecture))
            _add(tar, f"site/{name}", data)


def _is_wanted(name: str) -> bool:
    return name in LIBRARIES or not name.endswith(".so")


def _add_own(tar: tarfile.TarFile) -> None:
    """Add the plugin's folder, and its entry point, which vLLM finds it by."""
    for path in _own_files():
        _add(tar, f"vllm-alora/{path.relative_to(PLUGIN)}", path.read_bytes())
    about = "site/vllm_alora-0.1.0.dist-info"
    _add(tar, f"{about}/METADATA", b"Metadata-Version: 2.1\nName: vllm-alora\nVersion: 0.1.0\n")
    _add(tar, f"{about}/entry_points.txt", b"[vllm.general_plugins]\nalora = vllm_alora:register\n")


def _own_files() -> Iterator[Path]:
    for name in OWN:
        path = PLUGIN / name
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (file for file in files if file.is_file() and "__pycache__" not in file.parts)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    tar.addfile(info, io.BytesIO(data))


def _write_parts(archive: Path, out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    lines = []
    with archive.open("rb") as stream:
        for number, data in enumerate(iter(lambda: stream.read(PART_BYTES), b""), start=1):
            name = f"part-{number}"
            (out / name).write_bytes(data)
            lines.append(f"{hashlib.sha256(data).hexdigest()}  {name}\n")
            print(f"{out / name}: {len(data) / 1e6:.1f} MB", flush=True)
    (out / "SHA256SUMS").write_text("".join(lines))
    shutil.copy(HERE / "unpack.py", out)


if __name__ == "__main__":
    main()
