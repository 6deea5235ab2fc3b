"""Intrinsics on a running platform, by HTTP and by OpenAI's client; its engines are simulated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.own_valkey import socket_url, valkey_server

from aloraserve_services.engine.simulated.answer_words import AnswerWords
from aloraserve_services.models.untrained import PIPELINE, write_untrained_adapters
from benchmarks.adapter_intrinsics import IntrinsicsBench, IntrinsicsClient
from benchmarks.gateway_calls import Bodies
from benchmarks.intrinsics_result import LORA, TOGETHER

BASE = "SmolLM2-135M-Instruct"
TAIL_TOKENS = 64
"""What an intrinsic prefills at most after a shared prefix: its invocation, the end of a block and an instruction."""

pytestmark = [pytest.mark.e2e, pytest.mark.untimed, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def fleet(start: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory, model_path: Path) -> Iterator[Any]:
    adapters = tmp_path_factory.mktemp("pipeline")
    write_untrained_adapters(adapters, model_path, names=PIPELINE)
    with valkey_server() as server:
        flags = ("--engine", "simulated", "--redis-url", socket_url(server), "--adapters-dir", str(adapters))
        with start(*flags, own_state=True) as running:
            yield running


def messages(subject: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Tell me about {subject}. " * 60}]


def ask(fleet: Any, conversation: list[dict[str, str]], *names: Any) -> list[dict[str, Any]]:
    answer = fleet.http.post("/v1/intrinsics", json={"messages": conversation, "intrinsics": list(names)})
    assert answer.status_code == 200, answer.text
    results: list[dict[str, Any]] = answer.json()["results"]
    return results


def prefilled(result: dict[str, Any]) -> int:
    return int(result["usage"]["prompt_tokens"] - result["usage"]["cached_tokens"])


def test_a_cold_conversation_is_prefilled_once_by_all_intrinsics_together(fleet: Any) -> None:
    results = ask(fleet, messages("cold lakes"), *PIPELINE)
    assert [one["status"] for one in results] == ["ok"] * len(PIPELINE), results
    first, *others = sorted(map(prefilled, results), reverse=True)
    assert first > 200
    assert max(others) <= TAIL_TOKENS, results


def test_a_warm_conversation_costs_a_tail_each_on_the_replica_that_holds_it(fleet: Any) -> None:
    conversation = messages("warm lakes")
    answered = fleet.chat(BASE, conversation)
    fleet.settle()
    results = ask(fleet, conversation, *PIPELINE)
    assert max(map(prefilled, results)) <= TAIL_TOKENS, results
    assert {one["replica"] for one in results} == {answered.replica}


def test_results_are_typed_and_failures_are_their_own_item_s(fleet: Any) -> None:
    uncertainty, nobody, hallucination, safety, answerability = ask(
        fleet, messages("typed lakes"), "uncertainty", "nobody", "hallucination", "safety-lora", "answerability"
    )
    assert uncertainty["value"] in range(10)
    assert sum(uncertainty["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert (nobody["status"], nobody["status_code"]) == ("error", 404)
    assert 0 <= hallucination["value"]["hallucination_likelihood"] <= 1
    assert safety["value"] in (True, False)
    assert answerability["value"] in ("answerable", "unanswerable")


def test_documents_reach_the_intrinsics_as_their_specs_say(fleet: Any) -> None:
    body = {
        "messages": messages("documents"),
        "documents": [{"doc_id": "1", "text": "The lake is deep. " * 20}],
        "intrinsics": ["answerability"],
    }
    (with_documents,) = fleet.http.post("/v1/intrinsics", json=body).json()["results"]
    (without,) = ask(fleet, messages("documents"), "answerability")
    assert with_documents["usage"]["prompt_tokens"] > without["usage"]["prompt_tokens"] + 80


def test_a_chat_carries_guards_and_intrinsics_for_openai_s_client(fleet: Any) -> None:
    wanted = {"guard": [{"name": "safety", "threshold": 1}], "intrinsics": ["uncertainty", "hallucination"]}
    conversation = messages("guarded lakes")
    whole = fleet.openai.chat.completions.create(model=BASE, messages=conversation, max_tokens=8, extra_body=wanted)
    assert whole.choices[0].message.content
    assert [one["status"] for one in whole.model_extra["intrinsics"]] == ["ok", "ok"]
    # The guard computed the prompt, the answer its own tokens.
    assert max(map(prefilled, whole.model_extra["intrinsics"])) <= TAIL_TOKENS + 8
    stream = fleet.openai.chat.completions.create(
        model=BASE, messages=conversation, max_tokens=8, stream=True, extra_body=wanted
    )
    events = list(stream)
    assert "".join(event.choices[0].delta.content or "" for event in events)
    found = [one for event in events for one in (event.model_extra or {}).get("intrinsics", [])]
    assert sorted(one["name"] for one in found) == ["hallucination", "uncertainty"]


def test_a_guard_refuses(fleet: Any) -> None:
    wanted = {"guard": [{"name": "safety", "threshold": 0}]}
    refused = fleet.openai.chat.completions.create(model=BASE, messages=messages("lakes"), extra_body=wanted)
    assert (refused.choices[0].finish_reason, refused.choices[0].message.content) == ("content_filter", "")
    assert "the guard 'safety'" in refused.choices[0].message.refusal


def test_the_benchmark_asks_together_apart_and_as_plain_lora(fleet: Any, model_path: Path) -> None:
    client, bodies = IntrinsicsClient(fleet.http, BASE, 32), Bodies(BASE, AnswerWords.read(model_path))
    bench = IntrinsicsBench(client, bodies, PIPELINE[:2], tokens=300, seed=7, progress=lambda text: None)
    samples = bench.run(rounds=1, counts=(2,))
    assert len(samples) == 3 * 2
    together, lora = (sum(one.prefilled for one in samples if one.arm == arm) for arm in (TOGETHER, LORA))
    assert 0 < together < lora
    assert all(one.wall_s > 0 and one.tails > 0 for one in samples)
