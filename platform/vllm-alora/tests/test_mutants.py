"""The mutants fit the code as it is; ``make mutants-plugin`` runs them."""

from __future__ import annotations

from pathlib import Path

import pytest
from mutants import MUTANTS, PLUGIN
from mutation import Change, Mutant, Verdict


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the plugin, prepared for mutants."""
    folder = tmp_path_factory.mktemp("copy")
    PLUGIN.copy_to(folder)
    return folder


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_changes_code_that_is_there_and_its_test_exists(mutant: Mutant, copy: Path) -> None:
    change = PLUGIN.change(mutant)
    path = copy / change.file
    before = path.read_text("utf-8")
    try:
        change.apply(copy)
        compile(path.read_text("utf-8"), mutant.file, "exec")
    finally:
        path.write_text(before, "utf-8")
    for node in PLUGIN.nodes(mutant):
        file, _, name = node.partition("::")
        assert f"def {name}(" in (PLUGIN.root / file).read_text("utf-8")


def test_names_are_unique() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


def test_code_that_is_not_there_once_is_an_error(copy: Path) -> None:
    with pytest.raises(ValueError, match=r"activation\.py has 0 times 'no such code'"):
        Change("vllm_alora/activation.py", "no such code", "").apply(copy)


def test_a_verdict_names_the_tests_that_did_not_fail() -> None:
    assert "NOT NOTICED: test_a" in str(Verdict("a fault", ("test_a",), 1.0))
    assert str(Verdict("a fault", (), 1.0)).endswith(" noticed")
