"""Both lanes of all tests: each piece is run once, by the lane that is free, and none is left out."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import pytest
from lanes import NO_TESTS, TESTS, UNTIMED, Lane, _options, _pieces
from support.waiting import wait_until


def run_all(folder: Path, codes: list[int]) -> list[int | None]:
    """Let two lanes take runs with these exit codes; return theirs."""
    (folder / "run.py").write_text("import sys; open(sys.argv[1], 'x').close(); sys.exit(int(sys.argv[2]))")
    shared = deque((folder, ["run", str(number), str(code)]) for number, code in enumerate(codes))
    lanes = [Lane([], shared, None, 0), Lane([], shared, None, 0)]
    found: list[int | None] = []

    def are_over() -> bool:
        found[:] = [lane.advance() for lane in lanes]
        return None not in found

    wait_until(are_over, "both lanes to end")
    return found


def test_each_piece_is_run_once_and_a_failure_is_its_lane_s(tmp_path: Path) -> None:
    assert run_all(tmp_path, [0, NO_TESTS, 0, 0]) == [0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2", "3", "run.py"]
    (tmp_path / "failing").mkdir()
    assert sorted(code or 0 for code in run_all(tmp_path / "failing", [0, 3, 0])) == [0, 3]


def test_the_pieces_are_all_files_that_wait_for_no_time() -> None:
    options, rest = _options(["-rs"])
    pieces = list(_pieces(options, rest))
    assert all(UNTIMED in " ".join(arguments) and "-rs" in arguments for _, arguments in pieces)
    files = [argument for _, arguments in pieces for argument in arguments if argument.endswith(".py")]
    marked = [str(path) for path in TESTS.rglob("test_*.py") if "mark." + "untimed" in path.read_text()]
    assert sorted(files) == sorted(marked)
    assert Path(files[0]).name == "test_loadtests.py"


@pytest.mark.parametrize("path", ["tests/unit/gateway", "tests/e2e/test_demo.py::test_the_demo"])
def test_paths_that_are_given_are_all_that_is_run(path: str) -> None:
    options, rest = _options([path])
    [(_, arguments)] = _pieces(options, rest)
    assert [argument for argument in arguments if argument.startswith("tests")] == [path]
