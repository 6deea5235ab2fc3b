"""Both wheels, installed where the source tree is away: what a user has who never saw the repository."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from support.redis_deployments import free_port

import aloraserve
import vllm_alora

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "platform" / "vllm-alora"
PACKAGES = {
    "aloraserve": [ROOT / "platform" / "aloraserve", ROOT / "services" / "aloraserve_services"],
    "vllm_alora": [PLUGIN / "vllm_alora"],
}
MODULES = ("aloraserve", "aloraserve_services", "vllm_alora")
WHERE = f"import importlib, json; print(json.dumps([importlib.import_module(n).__file__ for n in {MODULES}]))"
VERSIONS = "from importlib.metadata import version; print(version('aloraserve'), version('vllm-alora'))"

Run = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = [pytest.mark.e2e, pytest.mark.untimed, pytest.mark.timeout(900)]


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both wheels by the name that their file begins with, built with what is installed here."""
    folder = tmp_path_factory.mktemp("wheels")
    _pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder), str(ROOT), str(PLUGIN))
    return {path.name.partition("-")[0]: path for path in folder.glob("*.whl")}


@pytest.fixture(scope="module")
def run(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run a command of an environment that has the wheels, and of this one only what others wrote.

    Its site-packages hold the wheels alone. A path file adds this environment's folder for their dependencies: Python
    does not read the path files in there, so the checkout that is installed here in place is out of reach.
    """
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", symlinks=True)
    own = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "venv")}))
    others = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (own / "dependencies.pth").write_text("".join(f"{path}\n" for path in sorted(others)))
    python = str(folder / "venv" / "bin" / "python")
    _pip("--python", python, "install", "--no-deps", "--no-index", *map(str, wheels.values()))
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "ALORASERVE_"))}

    def command(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        path = str(folder / "venv" / "bin" / name)
        return subprocess.run([path, *arguments], text=True, capture_output=True, timeout=400, cwd=elsewhere, env=kept)

    return command


@pytest.mark.parametrize("name", PACKAGES)
def test_a_wheel_holds_every_file_of_its_packages(name: str, wheels: dict[str, Path]) -> None:
    wanted = {
        str(path.relative_to(package.parent))
        for package in PACKAGES[name]
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = set(zipfile.ZipFile(wheels[name]).namelist())
    licences = {entry.rpartition("/")[2] for entry in packed if ".dist-info/licenses/" in entry}
    assert {entry for entry in packed if ".dist-info/" not in entry} == wanted
    assert {f"{package.name}/py.typed" for package in PACKAGES[name]} <= packed
    assert licences == {"LICENSE", "NOTICE"}


def test_the_wheels_are_what_is_imported(run: Run) -> None:
    found = json.loads(run("python", "-c", WHERE).stdout)
    assert all("site-packages" in path and str(ROOT) not in path for path in found), found
    assert len(found) == len(MODULES)


def test_the_command_names_its_version(run: Run) -> None:
    done = run("aloraserve", "--version")
    assert (done.returncode, done.stdout) == (0, f"aloraserve {aloraserve.__version__}\n"), done.stderr
    installed = run(
        "python", "-c", "from importlib.metadata import version as v; print(v('aloraserve'), v('vllm-alora'))"
    )
    assert installed.stdout.split() == [aloraserve.__version__, vllm_alora.__version__]


def test_a_platform_starts_answers_and_stops(run: Run, model_path: Path, tmp_path: Path) -> None:
    port, state = free_port(), str(tmp_path / "state")
    flags = ("--engine", "simulated", "--replicas", "1", "--model", str(model_path), "--dtype", "float32")
    started = run("aloraserve", "up", "--detach", "--port", str(port), "--state-dir", state, *flags)
    log = Path(state, "up.log")
    assert started.returncode == 0, started.stderr + (log.read_text() if log.exists() else "")
    try:
        body = {"model": model_path.name, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        answer = httpx.post(url, json=body, timeout=60, trust_env=False)
    finally:
        stopped = run("aloraserve", "down", "--state-dir", state)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] == 4
    assert stopped.returncode == 0, stopped.stderr
