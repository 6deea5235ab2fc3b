"""The demo, as `make demo` runs it: the rows that it writes show what the platform is for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.model import link_models

from aloraserve_services.models.shipped_adapters import shipped_names
from aloraserve_services.models.untrained import INTRINSICS

pytestmark = [pytest.mark.e2e, pytest.mark.untimed, pytest.mark.timeout(1500)]
BLOCK = 32
LONGEST_INVOCATION = 5


def test_the_demo_shows_reuse_and_what_it_saves(command: Callable[..., Any], model_path: Path, tmp_path: Path) -> None:
    link_models(model_path.parents[1], tmp_path / "state")
    out = tmp_path / "demo.json"
    done = command(
        "demo", "--json", str(out), "--dtype", "float32", "--state-dir", str(tmp_path / "state"), timeout=1200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads(out.read_text())
    untrained = [name for name in INTRINSICS if name not in shipped_names()]
    assert content["summary"]["untrained"] == untrained
    assert ("Untrained (random weights)" in done.stdout) == bool(untrained)
    planted = [
        judgement
        for judgement in content["judgements"]
        if judgement["truth"] in ("unsafe", "made up") and judgement["adapter"] not in untrained
    ]
    assert {judgement["adapter"] for judgement in planted} == {"safety", "hallucination"} - set(untrained)
    assert all(judgement["said"] == judgement["truth"] for judgement in planted), content["judgements"]
    ferry = [row for row in content["calls"] if row["conversation"] == "ferry"]
    holder = ferry[0]["replica"]
    assert max(row["prompt_tokens"] for row in ferry) >= 2000
    computed = 0
    for row in ferry:
        if row["kind"] == "base":
            assert row["replica"] == holder
            assert row["cached_tokens"] >= computed
            computed = row["prompt_tokens"] // BLOCK * BLOCK
        elif row["kind"] == "alora":
            assert row["replica"] == holder, row["reason"]
            assert row["cached_tokens"] >= computed
            # What is computed up to the invocation, for the first time by the guard, is the base model's too.
            computed = max(computed, (row["prompt_tokens"] - LONGEST_INVOCATION) // BLOCK * BLOCK)
            assert f"{row['adapter']:<18} alora {row['replica']}" in done.stdout
    first = [row["prompt_tokens"] for row in ferry if row["state"] == "first"]
    assert {row["kind"] for row in ferry if row["state"] in ("first", "returning")} == {"lora"}
    assert all(row["cached_tokens"] == 0 for row in ferry if row["state"] == "first")
    assert all(row["cached_tokens"] > 0 for row in ferry if row["state"] == "returning")
    assert any(400 <= tokens <= 700 for tokens in first)
    assert any(1800 <= tokens <= 2400 for tokens in first)
    summary = content["summary"]
    assert all(one["lora_first_to_alora"] > 1 for one in summary["ttft"] if one["lora_first_to_alora"])
    assert summary["time_saved_s"] > 0
    assert summary["tokens_not_prefilled"]["alora"] == sum(
        row["cached_tokens"] for row in content["calls"] if row["kind"] == "alora"
    )
