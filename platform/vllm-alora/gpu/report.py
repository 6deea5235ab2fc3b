"""What a check found, as ``report.json`` and ``report.md``."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

JSON, MARKDOWN = "report.json", "report.md"


@dataclass
class Report:
    """Everything that was found, in this run or an earlier one of other phases.

    Attributes:
        machine: GPU and versions.
        tests: by engine.
        measured: rows of each measuring phase, with how it ended.
    """

    machine: dict[str, str] = field(default_factory=dict)
    tests: dict[str, dict[str, Any]] = field(default_factory=dict)
    measured: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> Report:
        """Return what an earlier run left in the folder, nothing if there was none."""
        path = folder / JSON
        return cls(**json.loads(path.read_text())) if path.is_file() else cls()

    @property
    def is_good(self) -> bool:
        """Say whether every engine's tests passed and every phase ended."""
        return all(not found["exit"] for found in (*self.tests.values(), *self.measured.values()))

    def add_measured(self, phase: str, path: Path, code: int, seconds: float) -> None:
        """Take a phase's rows, if it wrote any."""
        found = json.loads(path.read_text()) if path.is_file() else {"rows": []}
        self.measured[phase] = {**found, "exit": code, "seconds": round(seconds)}

    def write(self, folder: Path) -> None:
        """Write both files."""
        (folder / JSON).write_text(json.dumps(asdict(self), indent=2) + "\n")
        (folder / MARKDOWN).write_text(self.as_markdown())

    def as_markdown(self) -> str:
        """Return tables of the machine, the tests and the figures."""
        parts = ["# vllm-alora on a GPU", ", ".join(f"{name} {value}" for name, value in self.machine.items())]
        if self.tests:
            parts.append(
                "\n".join(["| engine | tests | seconds |", "|---|---|---|", *map(_test_line, self.tests.items())])
            )
        for phase, found in self.measured.items():
            ended = "" if not found["exit"] else f", ended with exit code {found['exit']}"
            lines = [
                f"## {phase} ({found['seconds']} s{ended})",
                "",
                "| figure | value (low-high, n) | made of |",
                "|---|---|---|",
            ]
            parts.append("\n".join([*lines, *map(_row_line, found["rows"])]))
        return "\n\n".join(parts) + "\n"


def _test_line(item: tuple[str, dict[str, Any]]) -> str:
    name, found = item
    figures = "; ".join(f"{test}: {value}" for test, value in found["figures"].items())
    failed = f"; failed: {', '.join(found['failed'])}" if found["failed"] else ""
    return f"| {name} | {found['summary']}{failed}{'; ' + figures if figures else ''} | {found['seconds']} |"


def _row_line(row: dict[str, Any]) -> str:
    spread = row["spread"]
    value = f"{spread['value']:.3f} ({spread['low']:.3f}-{spread['high']:.3f}, n={spread['n']})"
    return f"| {row['figure']} | {value} | {row['note']} |"


def tests_of(path: Path) -> dict[str, Any]:
    """Read a JUnit file: how many passed, which failed, what the tests recorded."""
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    failed, figures = [], {}
    for case in ET.parse(path).iter("testcase"):  # noqa: S314
        outcome = _outcome(case)
        counts[outcome] += 1
        failed += [case.get("name", "")] if outcome == "failed" else []
        for recorded in case.iter("property"):
            figures[f"{case.get('name')} {recorded.get('name')}"] = recorded.get("value")
    summary = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    return {"summary": summary or "no test", "failed": failed, "figures": figures}


def tests_so_far(log: Path) -> dict[str, Any]:
    """Read the log of a run that was cut off: what had ended by then."""
    ended = re.findall(r"::(\S+) (PASSED|FAILED|ERROR)\b", log.read_text(errors="replace"))
    failed = [name for name, outcome in ended if outcome != "PASSED"]
    return {"summary": f"cut off; {len(ended) - len(failed)} passed before", "failed": failed, "figures": {}}


def _outcome(case: ET.Element) -> str:
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    return "skipped" if case.find("skipped") is not None else "passed"
