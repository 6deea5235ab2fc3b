"""The demo's calls on modelled engines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aloraserve.engine_model.calibration import Calibration
from aloraserve.errors import SettingsError
from aloraserve.simulation.demo_replay import DemoReplay, RealCall, ReplayedCall, median_error, read_calls
from aloraserve.simulation.router_names import router_factory

CALL = {
    "conversation": "ferry",
    "turn": 1,
    "adapter": "base",
    "kind": "base",
    "prompt_tokens": 500,
    "cached_tokens": 0,
    "ttft_s": 0.5,
}


def write(folder: Path, content: object) -> Path:
    path = folder / "demo.json"
    path.write_text(json.dumps(content))
    return path


def test_calls_reuse_what_the_real_ones_do(calibration: Calibration) -> None:
    calls = [
        RealCall("ferry", 1, "base", "base", 500, 0, 0.5),
        RealCall("ferry", 1, "safety", "alora", 560, 528, 0.1),
        RealCall("ferry", 1, "safety-lora", "lora", 560, 0, 0.6),
        RealCall("ferry", 2, "base", "base", 1000, 544, 0.5),
        RealCall("ferry", 2, "safety-lora", "lora", 1060, 544, 0.6),
        RealCall("glasshouse", 1, "base", "base", 500, 0, 0.5),
    ]
    replayed = DemoReplay(calls, calibration, 2, router_factory("expected-ttft")).run()
    assert [one.real for one in replayed] == calls
    # 500 + 48 tokens of the answer, of which the last is not computed: 34 whole blocks, as the adapter shares.
    assert [one.cached_tokens for one in replayed] == [0, 544, 0, 544, 544, 0]
    assert replayed[0].ttft_s == pytest.approx(2 * 0.010 + 0.500)
    assert replayed[1].ttft_s == pytest.approx(0.010 + 0.016)


def test_a_question_is_judged_before_its_answer_and_shares_its_blocks(calibration: Calibration) -> None:
    calls = [
        RealCall("ferry", 1, "safety", "alora", 500, 0, 0.5),
        RealCall("ferry", 1, "base", "base", 500, 480, 0.1),
        RealCall("ferry", 1, "hallucination", "alora", 555, 544, 0.1),
    ]
    replayed = DemoReplay(calls, calibration, 2, router_factory("expected-ttft")).run()
    # Whole blocks of 495 tokens before the invocation, then of 547 that the base model computed.
    assert [one.cached_tokens for one in replayed] == [0, 480, 544]


def test_the_error_is_the_median_of_relative_ones() -> None:
    real = RealCall("ferry", 1, "base", "base", 500, 0, 0.5)
    assert median_error([ReplayedCall(real, 0, ttft_s) for ttft_s in (0.5, 0.6, 0.25)]) == pytest.approx(0.2)


def test_a_demos_file_is_read(tmp_path: Path) -> None:
    calls, replicas = read_calls(write(tmp_path, {"calls": [CALL], "summary": {"replicas": 2}}))
    assert replicas == 2
    assert calls == [RealCall("ferry", 1, "base", "base", 500, 0, 0.5)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "is not what `aloraserve demo --json` writes"),
        ({"calls": [CALL]}, "'summary'"),
        ({"calls": [], "summary": {"replicas": 2}}, "calls must be a list of 1"),
        ({"calls": [CALL], "summary": {"replicas": 0}}, "summary.replicas is 0"),
        ({"calls": [CALL | {"kind": "dora"}], "summary": {"replicas": 2}}, "call 1: kind is 'dora'"),
        ({"calls": [CALL | {"turn": "x"}], "summary": {"replicas": 2}}, "call 1: turn is 'x'"),
        ({"calls": [CALL | {"ttft_s": 0}], "summary": {"replicas": 2}}, "must be above 0"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read_calls(write(tmp_path, content))
    with pytest.raises(SettingsError, match="cannot be read"):
        read_calls(tmp_path / "none")
