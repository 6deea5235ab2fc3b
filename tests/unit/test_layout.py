"""No folder or file here shadows a package: not the source roots, nor what a script finds beside itself."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_platform_is_the_standard_librarys() -> None:
    assert platform.python_version()
    assert Path(platform.__file__).parent == Path(sysconfig.get_path("stdlib"))


@pytest.mark.parametrize("folder", ["platform", "services"])
def test_a_source_root_holds_no_module(folder: str) -> None:
    assert (ROOT / folder).is_dir()
    assert list((ROOT / folder).glob("*.py")) == []


@pytest.mark.parametrize("folder", ["tests/support", "examples", "benchmarks", "deploy/install", "docs/images"])
def test_a_script_finds_no_namesake_of_a_package_beside_itself(folder: str) -> None:
    """Python puts a script's own folder first on its path: a ``valkey.py`` there is what ``import valkey`` finds."""
    found = (ROOT / folder).glob("*")
    beside = {path.stem for path in found if path.suffix == ".py" or (path / "__init__.py").exists()} - {"__init__"}
    assert beside
    assert not beside & (set(importlib.metadata.packages_distributions()) | set(sys.stdlib_module_names))
