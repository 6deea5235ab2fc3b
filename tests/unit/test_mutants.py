"""The mutants fit the code as it is; ``make mutants`` runs them."""

from __future__ import annotations

from pathlib import Path

import pytest
from mutants.tree import MUTANTS, PLATFORM
from mutation import Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_changes_code_that_is_there_and_its_tests_exist(mutant: Mutant) -> None:
    change = PLATFORM.change(mutant)
    text = (PLATFORM.root / change.file).read_text("utf-8")
    assert text.count(change.code) == 1
    if change.file.endswith(".py"):
        compile(text.replace(change.code, change.fault), change.file, "exec")
    for node in PLATFORM.nodes(mutant):
        file, *_, name = node.partition("[")[0].split("::")
        assert f"def {name}(" in (PLATFORM.root / file).read_text("utf-8")


def test_names_are_unique() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


def test_everything_that_the_tests_need_is_copied(tmp_path: Path) -> None:
    PLATFORM.copy_to(tmp_path)
    for path in PLATFORM.paths:
        assert (tmp_path / path).is_dir()
    assert (tmp_path / PLATFORM.tests / "support").is_dir()
