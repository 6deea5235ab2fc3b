"""The benchmark's figures: medians over rounds, and both kinds on the very same tokens."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from rich.console import Console

from aloraserve.adapters import AdapterVersion, StaticRegistry
from aloraserve.wire.answer_stream import StreamedAnswer
from aloraserve_services.cli.client import StreamingClient
from aloraserve_services.plan import FleetPlan
from benchmarks.end_to_end import TURN_TOKENS, Bench, Medians, Round, run_bench

ROUND = Round(500, 1.0, 0.1, 1.0, 0.2, 0.4, 480)
SAFETY = AdapterVersion("safety", "alora", Path("/none"), 8, ("q_proj",), (7, 8), "digest")


class Recorder:
    """Stands in for a platform's client: remembers calls and answers with times that distinguish them."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[int, ...]]] = []

    def complete(self, model: str, token_ids: list[int], max_tokens: int) -> StreamedAnswer:
        self.calls.append((model, tuple(token_ids)))
        ttft_s = {"base": 1.0, "safety": 0.1, "safety-lora": 0.8}[model]
        return StreamedAnswer("", ttft_s, ttft_s, 2, len(token_ids), 32, "engine-0")


def plan() -> FleetPlan:
    fake = SimpleNamespace(
        served_name="base",
        dtype="float32",
        keyspace=SimpleNamespace(block_tokens=32),
        settings=SimpleNamespace(replicas=2),
        open_registry=lambda: StaticRegistry([SAFETY]),
    )
    return cast(FleetPlan, fake)


def test_ratios_are_of_medians() -> None:
    slow = replace(ROUND, alora_s=0.3, lora_first_s=9.0, lora_returning_s=0.6)
    found = Medians.of([ROUND, slow, replace(ROUND, alora_s=0.2, lora_first_s=3.0)])
    assert (found.alora_s, found.lora_first_s) == (0.2, 3.0)
    assert found.lora_first_to_alora == 15.0
    assert found.lora_returning_to_alora == 2.0


def test_both_kinds_get_the_same_tokens_after_the_base_computed_them() -> None:
    client = Recorder()
    Bench(plan(), cast(StreamingClient, client), seed=1).round(500)
    models = [model for model, _ in client.calls]
    assert (models[0], models[3]) == ("base", "base")
    assert sorted(models[1:3]) == sorted(models[4:6]) == ["safety", "safety-lora"]
    prompts = [ids for _, ids in client.calls]
    assert prompts[1] == prompts[2] == (*prompts[0], 7, 8)
    assert prompts[4] == prompts[5] == (*prompts[3], 7, 8)
    assert prompts[3][: len(prompts[0])] == prompts[0]
    assert len(prompts[3]) == len(prompts[0]) + TURN_TOKENS
    assert 500 <= len(prompts[0]) < 532
    assert not {7, 8} & set(prompts[3])


def test_the_same_seed_gives_the_same_prompts_and_another_one_others() -> None:
    clients: list[Any] = [Recorder() for _ in range(3)]
    for client, seed in zip(clients, (1, 1, 2), strict=True):
        Bench(plan(), client, seed).round(100)
    assert clients[0].calls == clients[1].calls
    assert clients[0].calls[0] != clients[2].calls[0]


def test_a_run_prints_each_round_and_the_medians_and_says_what_it_ran_on() -> None:
    text = io.StringIO()
    content = run_bench(
        plan(),
        cast(StreamingClient, Recorder()),
        Console(file=text, width=120),
        lengths=[100, 200],
        rounds=2,
        seed=5,
    )
    assert [len(rounds) for rounds in content["rounds"].values()] == [2, 2]
    assert [round(medians["lora_first_to_alora"], 6) for medians in content["medians"]] == [8.0, 8.0]
    assert text.getvalue().count("round 2/2") == 2
    assert "8.0x" in text.getvalue()
    assert "float32, 2 replicas" in text.getvalue()
    assert "seed 5" in text.getvalue()
