"""The check of savings: which calls are compared, what is left out, and when the verdict holds."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest
from rich.console import Console

from aloraserve.errors import SettingsError
from aloraserve.wire.answer_stream import CallFailedError, StreamedAnswer
from aloraserve_services.cli.client import StreamingClient
from benchmarks.savings import (
    FIRST,
    RETURNING,
    TURN_TOKENS,
    Sample,
    Target,
    Verdict,
    Verification,
    content,
    run_verification,
)

TARGET = Target("base", "safety", "safety-lora", 32, 2, "float32")
SAMPLE = Sample(500, FIRST, 510, base_s=1.0, alora_s=0.1, twin_s=1.1, estimated_s=1.0, confidence=0.9)
INVOCATION_TOKENS = 3
TTFT_S = {"base": 1.0, "safety": 0.1, "safety-lora": 0.6}


@dataclass
class Recorder:
    """Stands in for a platform's client: remembers calls, and appends an invocation as a gateway does."""

    saved_s: float | None = 0.5
    replicas: dict[str, list[str]] = field(default_factory=dict)
    calls: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)

    def complete(self, model: str, token_ids: list[int], max_tokens: int) -> StreamedAnswer:
        self.calls.append((model, tuple(token_ids)))
        prompt_tokens = len(token_ids) + INVOCATION_TOKENS * (model == "safety")
        replica = (self.replicas.get(model) or ["engine-0"]).pop(0)
        return StreamedAnswer(
            *("", TTFT_S[model], TTFT_S[model], 2, prompt_tokens, 32, replica),
            saved_s=self.saved_s,
            savings_confidence=0.9,
        )


def verification(client: Recorder) -> Verification:
    return Verification(TARGET, cast(StreamingClient, client), seed=1)


def test_the_twin_gets_an_equally_long_prompt_of_its_own_in_the_same_state() -> None:
    client = Recorder()
    first, returning = verification(client).sample(500)
    assert [model for model, _ in client.calls] == ["base", "safety", "safety-lora"] * 2
    base, alora, twin, grown, later, twin_later = (ids for _, ids in client.calls)
    assert base == alora
    assert grown == later == (*base, *grown[-TURN_TOKENS:])
    assert len(twin) == len(alora) + INVOCATION_TOKENS == first.prompt_tokens
    assert len(twin_later) == len(later) + INVOCATION_TOKENS == returning.prompt_tokens
    assert twin[:32] != alora[:32]
    assert twin_later[: len(base)] == twin[: len(base)]
    assert 500 <= len(base) < 532
    assert (first.state, returning.state) == (FIRST, RETURNING)
    assert (first.base_s, first.alora_s, first.twin_s) == (1.0, 0.1, 0.6)
    assert first.real_s == pytest.approx(0.5)
    assert first.error == pytest.approx(0.0)


def test_each_length_but_the_longest_is_warmed_up_as_often_as_there_are_replicas() -> None:
    client = Recorder()
    verification(client).warm_up([100, 500, 300])
    assert [len(ids) for model, ids in client.calls if model == "base"] == [100, 100, 300, 300]
    assert {model for model, _ in client.calls} == {"base", "safety", "safety-lora"}


@pytest.mark.parametrize(
    ("replicas", "states"),
    [
        ({"safety": ["engine-1", "engine-0"]}, []),
        ({"safety": ["engine-0", "engine-1"]}, [FIRST]),
        ({"base": ["engine-0", "engine-1"]}, [FIRST]),
        ({"safety-lora": ["engine-1", "engine-0"]}, [FIRST]),
        ({"safety-lora": ["engine-1", "engine-1"]}, [FIRST, RETURNING]),
    ],
)
def test_calls_that_came_apart_are_left_out(replicas: dict[str, list[str]], states: list[str]) -> None:
    assert [sample.state for sample in verification(Recorder(replicas=replicas)).sample(100)] == states


def test_a_platform_that_reports_no_savings_is_named() -> None:
    with pytest.raises(CallFailedError, match="x-aloraserve-saved-ttft-ms"):
        verification(Recorder(saved_s=None)).sample(100)


def test_bias_is_of_sums_and_the_error_a_median() -> None:
    samples = [SAMPLE, replace(SAMPLE, estimated_s=1.2), replace(SAMPLE, estimated_s=0.95)]
    verdict = Verdict.of(samples)
    assert verdict.samples == 3
    assert verdict.median_error == pytest.approx(0.05)
    assert verdict.bias == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("error", "bias", "holds"),
    [(0.1, 0.05, True), (0.11, 0.0, False), (0.0, 0.06, False), (0.0, -0.06, False), (0.0, -0.05, True)],
)
def test_a_verdict_holds_within_both_limits(error: float, bias: float, holds: bool) -> None:
    assert Verdict(1, error, bias).holds(0.1, 0.05) == holds


def test_the_first_alora_with_a_twin_is_called() -> None:
    adapters = [
        {"name": "alone", "kind": "alora"},
        {"name": "odd", "kind": "lora"},
        {"name": "safety", "kind": "alora"},
        {"name": "safety-lora", "kind": "lora"},
    ]
    status: dict[str, Any] = {"model": "base", "block_tokens": 32, "dtype": "float32", "replicas": [{}, {}]}
    assert Target.of(status | {"adapters": adapters}) == TARGET
    with pytest.raises(SettingsError, match="adapters are alone, odd; an aLoRA adapter NAME and"):
        Target.of(status | {"adapters": adapters[:2]})


def test_a_run_prints_each_sample_the_medians_and_the_verdict() -> None:
    text, client = io.StringIO(), cast(StreamingClient, Recorder(replicas={"safety": ["engine-0"] * 2 + ["engine-1"]}))
    samples, verdict = run_verification(
        TARGET, client, Console(file=text, width=120), lengths=[100, 200], rounds=2, seed=5
    )
    assert len(samples) == verdict.samples == 7
    assert text.getvalue().count("round 2/2") == 4
    assert "median relative error 0.0%, bias +0.0% of 7 samples; 1 left out" in text.getvalue()
    assert "float32, 2 replicas" in text.getvalue()
    found = json.loads(json.dumps(content(TARGET, samples, verdict, 5)))
    assert found["samples"][0]["real_s"] == pytest.approx(0.5)
    assert found["verdict"]["samples"] == 7


def test_a_run_without_samples_fails() -> None:
    client = Recorder(replicas={"base": ["engine-0", "engine-1"] * 9, "safety": ["engine-2"] * 9})
    with pytest.raises(CallFailedError, match="no conversation's calls met on one replica"):
        run_verification(
            TARGET, cast(StreamingClient, client), Console(file=io.StringIO()), lengths=[100], rounds=1, seed=5
        )
