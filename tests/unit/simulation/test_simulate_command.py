"""``aloraserve simulate`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from aloraserve_services.cli.main import app

SMALL = ["simulate", "--trace", "generated", "--requests", "20", "--replicas", "2", "--block-tokens", "512"]


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, [*SMALL, *arguments])


def test_it_writes_what_it_shows(tmp_path: Path) -> None:
    json_path, plot_path = tmp_path / "figures.json", tmp_path / "plot.svg"
    result = call("--policy", "round-robin", "--load", "0.5", "--json", str(json_path), "--plot", str(plot_path))
    assert result.exit_code == 0, result.output
    assert "generated trace, 80 calls, load 50%" in result.output
    (found,) = json.loads(json_path.read_text())["policies"]
    assert found["policy"] == "round-robin"
    for name in ("mean", "p50", "p90", "p99"):
        assert found[f"ttft_{name}_s"] > 0
        assert found[f"e2e_{name}_s"] > found[f"ttft_{name}_s"]
    assert found["ttft_p90_s"] <= found["cold_ttft_p90_s"] <= found["cold_ttft_p99_s"]
    assert 0 < found["hit_rate"] <= found["oracle_hit_rate"] < 1
    assert found["pooled_hit_rate"] <= found["oracle_hit_rate"]
    assert f"{found['ttft_p90_s']:.3f}" in result.output
    assert plot_path.read_text().startswith("<svg")


def test_the_same_seed_gives_the_same_figures(tmp_path: Path) -> None:
    contents = []
    for name in ("one.json", "other.json"):
        assert call("--policy", "expected-ttft", "--seed", "5", "--json", str(tmp_path / name)).exit_code == 0
        contents.append((tmp_path / name).read_text())
    assert contents[0] == contents[1]


def test_a_policy_of_one_s_own_is_simulated_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "examples")
    json_path = tmp_path / "figures.json"
    result = call("--policy", "own_policy:WarmOrShortest,round-robin", "--json", str(json_path))
    assert result.exit_code == 0, result.output
    own, turns = json.loads(json_path.read_text())["policies"]
    assert own["policy"] == "own_policy:WarmOrShortest"
    assert own["hit_rate"] > turns["hit_rate"]


def test_scalers_are_compared_on_calls_that_come_as_a_shape_says(tmp_path: Path) -> None:
    json_path = tmp_path / "figures.json"
    scalers = ["--scaler", "aloraserve", "--scaler", "constant:1", "--shape", "bursty", "--replicas", "3"]
    result = call(*scalers, "--json", str(json_path))
    assert result.exit_code == 0, result.output
    assert "bursty generated trace, 80 calls, 1 to 3 replicas; objectives 1 s, then 100 ms per token" in result.output
    content = json.loads(json_path.read_text())
    assert content["rules"]["max_replicas"] == 3
    ours, constant = content["scalers"]
    assert (ours["name"], constant["setting"]) == ("aloraserve", "1 replicas")
    assert ours["runs"][0]["calls"] == constant["runs"][0]["calls"] == 80
    assert 0 <= ours["runs"][0]["violations"] <= 1
    assert f"{constant['runs'][0]['replica_hours']:.2f}" in result.output


def test_a_trace_can_be_given_a_shape(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    rows = [{"timestamp": 1000 * n, "input_length": 600, "output_length": 9, "hash_ids": [0, n]} for n in range(20)]
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = call("--trace", str(trace), "--scaler", "constant", "--shape", "diurnal")
    assert result.exit_code == 0, result.output
    assert "diurnal trace.jsonl, 80 calls, 1 to 2 replicas" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scaler", "best"], "scaler is 'best'; aloraserve, serve-default"),
        (["--scaler", "constant:9"], "at most 2 replicas are accepted here"),
        (["--scaler", "aloraserve", "--policy", "round-robin"], "policy and scaler are both given"),
        (["--scaler", "aloraserve", "--fault", "kill:0@1"], "fault and scaler are both given"),
        (["--scaler", "aloraserve", "--shape", "square"], "shape is 'square'"),
        (["--shape", "bursty"], "shape is given without scaler"),
        (["--policy", "fastest"], "policy is 'fastest'"),
        (["--policy", "nowhere:Policy"], "policy is 'nowhere:Policy': it cannot be imported"),
        (["--trace", "nowhere.jsonl"], "trace nowhere.jsonl cannot be read"),
        (["--kv-tokens", "3"], "kv_tokens is 3"),
        (["--load", "-1"], "load is -1"),
        (["--load", "0.5", "--rate-scale", "2"], "both given"),
        (["--replicas", "0"], "replicas is 0"),
        (["--evaluators", "-1"], "evaluators is -1"),
        (["--block-tokens", "100"], "block_tokens is 100; a divisor of 512"),
        (["--fault", "kill:2@1"], "numbered 0 to 1"),
        (["--calibration", "tpu"], "calibration is 'tpu'"),
        (["--plot", "plot.pdf"], "ends in .html or .svg"),
        (["--json", "nowhere/figures.json"], "its folder does not exist"),
        (["--seeds", "0"], "seeds is 0"),
        (["--against", "nowhere.json"], "nowhere.json cannot be read"),
    ],
)
def test_a_wrong_flag_is_named(arguments: list[str], message: str) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert message in result.output
