"""The parts of ``benchmarks/`` that need no engine: figures, the random model, and what is imported."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from scripts import load_script

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


figures = load_script("benchmarks", "figures")
random_model = load_script("benchmarks", "random_model")


def _imported(path: Path) -> set[str]:
    """Return the top-level modules that a file imports anywhere."""
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    named = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in plain | named}


def test_benchmarks_and_tests_need_nothing_of_the_platform() -> None:
    files = [*BENCHMARKS.glob("*.py"), *Path(__file__).parent.glob("*.py")]
    assert len(files) > 20
    assert [path.name for path in files if {"aloraserve", "aloraserve_services"} & _imported(path)] == []


def test_a_random_model_has_the_shape_and_the_type_that_were_asked_for(tmp_path: Path) -> None:
    folder = random_model.write_random_model(
        tmp_path / "model", "bfloat16", 0, vocab_size=64, num_hidden_layers=1, hidden_size=18, intermediate_size=16
    )
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["vocab_size"], config["num_hidden_layers"]) == ("llama", 64, 1)
    assert config["num_key_value_heads"] == random_model.SHAPE["num_key_value_heads"]
    assert config["dtype"] == "bfloat16"
    assert {"model.safetensors", "tokenizer.json"} <= {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.706), (3, 3.182), (4, 2.776), (9, 2.262), (19, 2.093), (120, 1.980)]
)
def test_student_t_is_the_tabulated_quantile(degrees: int, quantile: float) -> None:
    assert figures.student_t(degrees) == pytest.approx(quantile, rel=1e-3)


def test_interval_of_the_mean_ratio_is_the_one_worked_by_hand() -> None:
    # Logarithms 0 and ln 1.21: mean ln 1.1, deviation of the mean ln 1.1, t of one degree 12.7062.
    spread = figures.mean_ratio([1.0, 1.21], [1.0, 1.0])
    assert spread.value == pytest.approx(1.1)
    assert spread.low == pytest.approx(1.1 / 1.1**12.7062)
    assert spread.high == pytest.approx(1.1 * 1.1**12.7062)


def test_swapping_the_sides_inverts_the_interval() -> None:
    slow, fast = [3.0, 4.0, 5.5, 4.2], [2.0, 2.5, 2.9, 2.2]
    there, back = figures.mean_ratio(slow, fast), figures.mean_ratio(fast, slow)
    assert (there.value, there.low, there.high) == pytest.approx((1 / back.value, 1 / back.high, 1 / back.low))


def test_the_plugin_is_taken_out_for_a_while_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sides of a throughput pair on one engine."""
    from vllm.v1.engine.input_processor import InputProcessor

    import vllm_alora
    from vllm_alora.patches.seam import is_patched

    monkeypatch.syspath_prepend(str(BENCHMARKS))
    vllm_alora.register()
    ours = InputProcessor.process_inputs
    with load_script("benchmarks", "plugin").without_plugin():
        assert not is_patched(InputProcessor.process_inputs)
    assert InputProcessor.process_inputs is ours


def test_unpaired_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        figures.ratios([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict"),
    [(1.0, 0.98, 1.02, "met"), (1.0, 0.96, 1.02, "missed"), (1.0, 0.98, 1.04, "missed"), (1.1, 1.09, 1.11, "missed")],
)
def test_an_interval_target_judges_the_whole_interval(value: float, low: float, high: float, verdict: str) -> None:
    target = figures.Target(interval_within=(0.97, 1.03))
    assert target.verdict(figures.Spread(value, low, high, 9)) == verdict


def test_a_bound_judges_the_median_and_includes_its_limit() -> None:
    assert figures.Target(at_most=1.15).verdict(figures.Spread(1.15, 1.0, 2.0, 5)) == "met"
    assert figures.Target(at_most=1.15).verdict(figures.Spread(1.16, 1.0, 2.0, 5)) == "missed"
    assert figures.Target(at_least=17).verdict(figures.Spread(16.9, 1.0, 20.0, 5)) == "missed"


def test_the_table_shows_every_row_with_target_and_verdict() -> None:
    rows = [
        figures.Row("a", figures.median_of([1.0, 2.0, 9.0]), "ms", figures.Target(at_most=1.5), "why"),
        figures.Row("b", figures.median_of([4.0])),
    ]
    _, _, first, second = figures.table(rows).splitlines()
    assert first.split() == ["a", "2.000", "(1.000-9.000,", "n=3)", "ms", "<=", "1.5", "missed", "why"]
    assert second.split() == ["b", "4.000", "(4.000-4.000,", "n=1)", "report", "-"]
