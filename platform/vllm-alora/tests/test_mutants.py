"""The mutants fit the code as it is; ``make mutants-plugin`` runs them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mutants import MUTANTS, ROOT, SELF_CHECK, Mutant, change


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package, as it is."""
    return Path(shutil.copytree(ROOT / "vllm_alora", tmp_path_factory.mktemp("copy") / "vllm_alora")).parent


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_changes_code_that_is_there_and_its_test_exists(mutant: Mutant, package: Path) -> None:
    path = package / "vllm_alora" / mutant.file
    before = path.read_text("utf-8")
    try:
        mutant.put_into(package)
        compile(path.read_text("utf-8"), mutant.file, "exec")
    finally:
        path.write_text(before, "utf-8")
    file, _, name = mutant.test.partition("::")
    assert f"def {name}(" in (ROOT / "tests" / file).read_text("utf-8")


def test_the_self_check_can_be_taken_out(package: Path) -> None:
    change(package, *SELF_CHECK)


def test_names_are_unique() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


def test_code_that_is_not_there_once_is_an_error(package: Path) -> None:
    with pytest.raises(ValueError, match=r"activation\.py has 0 times 'no such code'"):
        change(package, "vllm_alora/activation.py", "no such code", "")
