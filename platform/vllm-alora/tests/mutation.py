"""Mutation tests: faults put into a copy of a source tree, one at a time, each with the tests that must notice it.

Before anything is changed, those tests must pass in the copy. The working tree is never touched.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

FAILED = 1
"""pytest's exit code where tests ran and failed."""


@dataclass(frozen=True)
class Change:
    """Code that stands once in a file, and what stands there instead.

    Attributes:
        file: below the root.
        code: as it is.
        fault: as it becomes.
    """

    file: str
    code: str
    fault: str

    def apply(self, root: Path) -> None:
        """Change the file below a folder.

        Raises:
            ValueError: the code does not stand there once.
        """
        path = root / self.file
        text = path.read_text("utf-8")
        if text.count(self.code) != 1:
            raise ValueError(f"{self.file} has {text.count(self.code)} times {self.code!r}; a mutant needs it once")
        path.write_text(text.replace(self.code, self.fault), "utf-8")


@dataclass(frozen=True)
class Mutant:
    """A fault.

    Attributes:
        name: what goes wrong.
        file: below the tree's sources.
        code: what stands there, once.
        fault: what stands there instead.
        test: file and name of a test that notices it, below the tree's tests; several with spaces between them.
    """

    name: str
    file: str
    code: str
    fault: str
    test: str


@dataclass(frozen=True)
class SourceTree:
    """What a mutant is put into.

    Attributes:
        root: its folder, where pytest is configured.
        copied: files and folders below it that sources and tests need.
        sources: the folder of mutants' files, below the root.
        tests: the folder of their tests, below the root.
        paths: folders to import from, below the root.
        preloaded: modules that take long to import, are not part of the tree and import nothing of it.
        prepared: changes of each copy, with a mutant or without.
        test_timeout_s: of one test: a fault may have it wait for ever.
    """

    root: Path
    copied: tuple[str, ...]
    sources: str
    tests: str
    paths: tuple[str, ...]
    preloaded: tuple[str, ...] = ()
    prepared: tuple[Change, ...] = ()
    test_timeout_s: int = 120

    def change(self, mutant: Mutant) -> Change:
        """Return a mutant's change below the root."""
        return Change(f"{self.sources}/{mutant.file}", mutant.code, mutant.fault)

    def nodes(self, mutant: Mutant) -> list[str]:
        """Return a mutant's tests as pytest names them from the root."""
        return [f"{self.tests}/{test}" for test in mutant.test.split()]

    def copy_to(self, folder: Path) -> None:
        """Copy what is needed; nothing else is imported from the tree."""
        for name in self.copied:
            source, target = self.root / name, folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"), symlinks=True)
            else:
                shutil.copy(source, target)
        for change in self.prepared:
            change.apply(folder)


@dataclass(frozen=True)
class Verdict:
    """Outcome of a mutant's tests.

    Attributes:
        name: the mutant's.
        missed: tests that did not fail, or why they did not run.
        took_s: how long they ran.
    """

    name: str
    missed: tuple[str, ...]
    took_s: float

    def __str__(self) -> str:
        found = "noticed" if not self.missed else f"NOT NOTICED: {', '.join(self.missed)}"
        return f"{self.took_s:4.0f} s  {self.name:<76} {found}"


def run_mutants(tree: SourceTree, runs: Sequence[tuple[Mutant, Sequence[str]]]) -> int:
    """Try mutants with tests, show each verdict as it comes and a summary; return how many were not noticed.

    Args:
        tree: what they are put into.
        runs: mutants, each with tests of which every one must fail.
    """
    for module in tree.preloaded:
        importlib.import_module(module)
    if not _pass_unchanged(tree, dict.fromkeys(test for _, tests in runs for test in tests)):
        return len(runs)
    verdicts = []
    for number, (mutant, tests) in enumerate(runs, start=1):
        verdicts.append(_try(tree, mutant, tests))
        print(f"{number:3d}/{len(runs)} {verdicts[-1]}", flush=True)
    survivors = [verdict for verdict in verdicts if verdict.missed]
    took_s = sum(verdict.took_s for verdict in verdicts)
    print(f"\n{len(runs) - len(survivors)} of {len(runs)} noticed, {took_s:.0f} s", *survivors, sep="\n")
    return len(survivors)


def named(mutants: Iterable[Mutant], names: Sequence[str]) -> list[Any]:
    """Return the mutants with these names; all without any.

    Raises:
        ValueError: no mutant has that name; lists those that exist.
    """
    known = {mutant.name: mutant for mutant in mutants}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"no mutant is called {unknown}; they are {list(known)}")
    return [mutant for name, mutant in known.items() if not names or name in names]


def _pass_unchanged(tree: SourceTree, tests: Iterable[str]) -> bool:
    started = time.monotonic()
    code, output = _run(tree, None, list(tests))
    if code:
        print(f"{output}\nThe tests fail without a mutant; nothing was tried.", file=sys.stderr)
    else:
        print(f"{time.monotonic() - started:4.0f} s  without a mutant all tests pass", flush=True)
    return code == 0


def _try(tree: SourceTree, mutant: Mutant, tests: Sequence[str]) -> Verdict:
    started = time.monotonic()
    try:
        code, output = _run(tree, mutant, tests)
    except ValueError as error:
        return Verdict(mutant.name, (str(error),), time.monotonic() - started)
    lines = [line.removeprefix("FAILED ") for line in output.splitlines() if line.startswith("FAILED ")]
    failed = [line.split(" - ")[0] for line in lines]
    missed = [test for test in tests if not any(_is_part(node, test) for node in failed)]
    if code != FAILED:
        missed = [f"pytest's exit code is {code}"]
    return Verdict(mutant.name, tuple(missed), time.monotonic() - started)


def _is_part(node: str, test: str) -> bool:
    """Return whether a node is a test, or one of a file's or a test's parameters."""
    return node == test or node.startswith((f"{test}::", f"{test}["))


def _run(tree: SourceTree, mutant: Mutant | None, tests: Sequence[str]) -> tuple[int | None, str]:
    """Run tests in a copy of the tree with a mutant in it; return pytest's exit code and output."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        root = Path(folder)
        tree.copy_to(root)
        if mutant is not None:
            tree.change(mutant).apply(root)
        output = root / "output"
        # A fork of this process, which has the slow modules loaded and none of the tree's: importing takes longer
        # than most tests.
        process = multiprocessing.get_context("fork").Process(target=_test_copy, args=(tree, root, tests, output))
        process.start()
        process.join()
        return process.exitcode, output.read_text("utf-8")


def _test_copy(tree: SourceTree, root: Path, tests: Sequence[str], output: Path) -> None:
    """Run tests in a copy, in a process of their own."""
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(root)
    paths = [str(root / path) for path in tree.paths]
    sys.path[:] = [*paths, *(path for path in sys.path if not Path(path).is_relative_to(tree.root))]
    # For processes that tests start.
    os.environ.update(PYTHONPATH=os.pathsep.join(paths), PYTHONDONTWRITEBYTECODE="1")
    options = ["-q", "--tb=short", "--assert=plain", f"--timeout={tree.test_timeout_s}", "-p", "no:cacheprovider"]
    # The first failure says it all, unless several tests must fail.
    sys.exit(int(pytest.main([*options, *(["-x"] if len(tests) == 1 else []), *tests])))
