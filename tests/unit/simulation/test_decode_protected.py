"""Long prompts beside chats: with an objective the slowest answers get faster, and first tokens pay little."""

from __future__ import annotations

import random

from aloraserve.engine_model.calibration import load
from aloraserve.simulation.fleet import FleetSettings, ModelledFleet, RunResult
from aloraserve.simulation.router_names import router_factory
from aloraserve.simulation.summary import percentile
from aloraserve.simulation.trace import TraceRow
from aloraserve.simulation.workload import Workload, WorkloadSettings

CALIBRATION = load("h100-llama-3.1-8b")
CALLS = 1000
RATE = 36.0
OBJECTIVE_S = 0.02


def rows() -> list[TraceRow]:
    """Return chats with long answers, and every third time a long prompt with a short one; no two share anything."""
    chance = random.Random(0)
    found, at_s, ids = [], 0.0, 0
    for _ in range(CALLS):
        at_s += chance.expovariate(RATE)
        if chance.random() < 0.7:
            prompt, answer = chance.randrange(500, 1500), chance.randrange(100, 400)
        else:
            prompt, answer = chance.randrange(8_000, 24_000), chance.randrange(4, 20)
        count = -(-prompt // 512)
        found.append(TraceRow(at_s, prompt, answer, tuple(range(ids, ids + count))))
        ids += count
    return found


def run(objective_s: float) -> RunResult:
    workload = Workload(rows(), WorkloadSettings(evaluators=0))
    fleet = FleetSettings(CALIBRATION, replicas=8, tpot_objective_s=objective_s)
    return ModelledFleet(fleet, workload, router_factory("expected-ttft")).run()


def chats_tpot_s(result: RunResult, share: float) -> float:
    return percentile(sorted(record.tpot_s for record in result.records if record.output_tokens >= 100), share)


def test_the_slowest_answers_get_faster_and_first_tokens_pay_little() -> None:
    without, protected = run(0.0), run(OBJECTIVE_S)
    assert chats_tpot_s(without, 0.9) > OBJECTIVE_S, "or nothing would have to be protected"
    assert chats_tpot_s(protected, 0.99) < 0.92 * chats_tpot_s(without, 0.99)
    mean_s = [sum(record.ttft_s for record in result.records) / CALLS for result in (without, protected)]
    assert mean_s[1] < 1.1 * mean_s[0]
