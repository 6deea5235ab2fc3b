"""``aloraserve evaluate`` on the session's platform: serving and PEFT answer every row alike."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aloraserve.training.results import EvaluationReport

SPEC = """\
name: safety
base: {base}
invocation: "<|im_start|>safety\\n"
intrinsic: {{output: {{form: yes_no}}, documents: string}}
description: Is the question unsafe?
data: {{train: rows.jsonl, validation: rows.jsonl, test: rows.jsonl, duplicates: allow}}
"""
ROWS = 6

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

Evaluate = Callable[..., Any]


@pytest.fixture
def evaluate(
    platform: Any, command: Callable[..., Any], tmp_path: Path, model_path: Path, adapters_dir: Path
) -> Evaluate:
    rows = [
        {
            "messages": [{"role": "user", "content": f"Tell me about lake {number}. " * (5 * number + 1)}],
            "documents": [{"doc_id": "1", "text": f"Lake {number} is deep."}] if number % 2 else [],
            "completion": "YN"[number % 2],
        }
        for number in range(ROWS)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "spec.yaml").write_text(SPEC.format(base=model_path))

    def run(adapter: Path, *more: str) -> Any:
        spec, out = str(tmp_path / "spec.yaml"), str(tmp_path / "out")
        where = ("--url", platform.url, "--model", "safety", "--dtype", "float32", "--out", out)
        return command("evaluate", spec, "--adapter", str(adapter), *where, *more)

    return run


def test_serving_and_peft_agree_on_every_row(evaluate: Evaluate, adapters_dir: Path, tmp_path: Path) -> None:
    twin = ("--twin", str(adapters_dir / "safety-lora"), "--twin-model", "safety-lora")
    done = evaluate(adapters_dir / "safety", *twin)
    assert done.returncode == 0, done.stdout + done.stderr
    report = EvaluationReport.read(tmp_path / "out" / "results.json")
    assert [(found.items, found.differing) for found in report.agreements] == [(ROWS, ()), (ROWS, ())]
    assert all(found.probability_gap is not None and found.probability_gap < 1e-3 for found in report.agreements)
    served = report.arm("alora", "platform")
    assert served is not None
    assert [item.error for item in served.items] == [""] * ROWS


def test_another_version_than_the_platform_serves_is_refused(
    evaluate: Evaluate, adapters_dir: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(adapters_dir / "safety", tmp_path / "other")
    sidecar = json.loads((other / "aloraserve.json").read_text())
    (other / "aloraserve.json").write_text(json.dumps(sidecar | {"description": "Changed."}))
    done = evaluate(other)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "serves another version as 'safety'" in done.stderr
