"""The source roots are never packages: one named ``platform`` would shadow the standard library's."""

from __future__ import annotations

import platform
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
