"""Other architectures than Llama: what vLLM does differently in their layers must not matter."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import Reference, assert_exact, started_engine, words, write_adapters, write_model

pytestmark = pytest.mark.engine

SPREAD = {"gemma3": 0.2}
"""Of an adapter's weights; Gemma's norms behind each half of a layer leave little of a small change."""


@pytest.mark.parametrize("architecture", ["qwen3", "granite", "gemma3"])
def test_all_seven_linears_are_exact(architecture: str, tmp_path: Path) -> None:
    """q, k, v, o, gate, up and down, in a batch with every slot full and again on warm blocks."""
    model_path = write_model(tmp_path / "model", architecture)
    adapters_path = write_adapters(tmp_path / "adapters", model_path, spread=SPREAD.get(architecture, 0.05))
    reference = Reference(model_path, adapters_path)
    prompt = words(140, 500)
    calls = [
        (prompt, None),
        ([*prompt, 901, 902, 5], "certainty"),
        ([*prompt[:70], 911, 912, 913, *words(50, 501)], "safety"),
        (prompt, "style"),
        (words(50, 502), "summary"),
    ]
    with started_engine(model_path, adapters_path) as engine:
        cold, warm = engine.answers(calls), engine.answers(calls)
    assert_exact(reference, calls + calls, cold + warm)
    assert [answer.cached_tokens for answer in warm] == [128, 128, 96, 128, 32]
    assert len({tuple(answer.tokens) for answer in warm}) == len(calls), "adapters without effect prove nothing"
