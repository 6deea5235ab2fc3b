"""``aloraserve up --engine simulated``: no model, and everything else as with one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.model import link_models
from support.own_valkey import socket_url, valkey_server

from aloraserve.directory.base import LEASE_TTL_S

BASE = "SmolLM2-135M-Instruct"
REPLICAS = 3
BLOCK = 32
ROOT = Path(__file__).resolve().parents[2]
MAX_REPLICA_BYTES = 300 << 20

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def redis_server() -> Iterator[Any]:
    """A server of this module's own: its fleet has another key space than the real engines'."""
    with valkey_server() as server:
        yield server


@pytest.fixture(scope="module")
def redis_url(redis_server: Any) -> str:
    return socket_url(redis_server)


@pytest.fixture(scope="module")
def fleet(start: Callable[..., Any], redis_url: str) -> Iterator[Any]:
    flags = ("--engine", "simulated", "--replicas", str(REPLICAS), "--redis-url", redis_url)
    with start(*flags, own_state=True) as running:
        yield running


def messages(subject: str, times: int = 40) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Tell me about {subject}. " * times}]


def engines(fleet: Any) -> list[psutil.Process]:
    found = []
    for process in fleet.process.children(recursive=True):
        try:
            if "ServeReplica:aloraserve:engine" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:  # a zombie is one too
            continue
    return found


def settle(fleet: Any) -> None:
    """Wait until nothing runs and holdings have stopped changing."""
    seen: list[Any] = []

    def idle() -> bool:
        states = fleet.replicas()["replicas"]
        busy = sum(one["load"]["running"] + one["load"]["waiting"] for one in states)
        seen.append((busy, sorted((one["label"], one["held_blocks"]) for one in states)))
        return len(states) == REPLICAS and busy == 0 and seen[-4:] == [seen[-1]] * 4

    fleet.wait_until(idle, 120, "the replicas to be idle")


def test_adapters_reuse_what_the_base_model_computed_and_loras_do_not(fleet: Any) -> None:
    conversation = messages("a lighthouse")
    first = fleet.chat(BASE, conversation, 24)
    assert (first.cached_tokens, len(first.text.split())) == (0, 24)
    prompt = fleet.prompt(conversation)
    settle(fleet)
    conversation.append({"role": "assistant", "content": first.text})
    said = fleet.prompt(conversation, "safety")
    safety = fleet.chat("safety", conversation)
    assert safety.prompt_tokens == len(said)
    answered = [*prompt, *fleet.tokenizer(first.text, add_special_tokens=False)["input_ids"]]
    assert safety.cached_tokens == fleet.reusable(said, answered, "safety") > 0.8 * len(prompt)
    assert safety.replica == first.replica
    assert fleet.chat("safety-lora", conversation).cached_tokens == 0
    settle(fleet)
    conversation.append({"role": "user", "content": "And of the sea? " * 10})
    again = fleet.chat(BASE, conversation)
    assert again.replica == first.replica
    assert again.cached_tokens >= safety.cached_tokens


def test_the_same_call_has_the_same_answer_wherever_it_runs_and_whatever_is_cached(fleet: Any) -> None:
    conversation = messages("a canal")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: fleet.chat(BASE, conversation, 40).text, range(16)))
    assert len(set(found)) == 1
    assert fleet.chat("safety", conversation, 40).text != found[0]


def test_siblings_at_once_go_where_their_conversation_is(fleet: Any, intrinsics: tuple[str, ...]) -> None:
    conversation = messages("a harbour", 120)
    first = fleet.chat(BASE, conversation)
    settle(fleet)
    with ThreadPoolExecutor(len(intrinsics)) as pool:
        replies = list(pool.map(lambda name: fleet.chat(name, conversation), intrinsics))
    assert {reply.replica for reply in replies} == {first.replica}
    for reply in replies:
        assert reply.cached_tokens > 0.9 * first.prompt_tokens


def test_a_stream_is_the_whole_answer_in_pieces(fleet: Any) -> None:
    conversation = messages("a bridge")
    whole = fleet.chat(BASE, conversation, 30).text
    stream = fleet.openai.chat.completions.create(
        model=BASE, messages=conversation, max_tokens=30, stream=True, temperature=0
    )
    parts = [part.choices[0].delta.content or "" for part in stream if part.choices]
    assert "".join(parts) == whole
    assert len([part for part in parts if part]) == 30, "each token by itself"


def test_an_answer_reports_what_it_saved_and_a_repeated_call_saves_less(fleet: Any) -> None:
    conversation = messages("a windmill", 120)
    base, _ = saved(fleet, BASE, conversation)
    settle(fleet)
    first, headers = saved(fleet, "safety", conversation)
    assert base["saved_tokens"] == 0
    assert 0.9 * first["cached_tokens_by_source"]["base"] <= first["saved_tokens"]
    assert first["saved_tokens"] > 0
    assert first["saved_ttft_ms"] > 0
    assert float(headers["x-aloraserve-saved-ttft-ms"]) == pytest.approx(first["saved_ttft_ms"], abs=0.11)
    assert float(headers["x-aloraserve-counterfactual-ttft-ms"]) == pytest.approx(
        float(headers["x-aloraserve-ttft-ms"]) + first["saved_ttft_ms"], abs=0.3
    )
    assert 0 <= float(headers["x-aloraserve-savings-confidence"]) <= 1
    settle(fleet)
    again, _ = saved(fleet, "safety", conversation)
    assert again["saved_tokens"] < 0.1 * first["saved_tokens"]
    streamed = fleet.openai.chat.completions.create(
        model="safety", messages=conversation, max_tokens=4, stream=True, stream_options={"include_usage": True}
    )
    assert [part.usage.aloraserve["saved_tokens"] for part in streamed if part.usage] == [again["saved_tokens"]]


def saved(fleet: Any, model: str, conversation: list[dict[str, str]]) -> tuple[dict[str, Any], Any]:
    """Make a call; return its usage's extension and its headers."""
    raw = fleet.openai.chat.completions.with_raw_response.create(model=model, messages=conversation, max_tokens=4)
    return raw.parse().usage.aloraserve, raw.headers


def test_the_fleets_savings_have_each_call_within_seconds(fleet: Any) -> None:
    def calls(name: str) -> int:
        content = fleet.http.get("/v1/savings?window=5m").json()
        assert content["ledger"] == "ok"
        assert content["total"]["calls"] == sum(one["calls"] for one in content["adapters"])
        return sum(int(one["calls"]) for one in content["adapters"] if one["name"] == name)

    before = calls("uncertainty")
    conversation = messages("a mill pond")
    fleet.chat(BASE, conversation)
    fleet.chat("uncertainty", conversation)
    fleet.wait_until(lambda: calls("uncertainty") == before + 1, 120, "the call in the ledger")


def test_savings_are_checked_on_a_platform_that_runs(fleet: Any, tmp_path: Path) -> None:
    """How well they agree is nothing to ask of a machine that runs tests."""
    settle(fleet)
    file = tmp_path / "found.json"
    flags = ("--url", fleet.url, "--lengths", "1000,3000", "--rounds", "2", "--max-error", "1e9", "--max-bias", "1e9")
    check = (sys.executable, "-m", "benchmarks.savings", *flags, "--json", str(file), "--state-dir", str(tmp_path))
    checked = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "median relative error" in checked.stdout
    first = [one for one in json.loads(file.read_text())["samples"] if one["state"] == "first"]
    assert first
    assert all(one["estimated_s"] > 0 and 0 <= one["confidence"] <= 1 for one in first)


def test_the_account_of_reuse_adds_up_and_names_what_a_lora_cannot_use(fleet: Any, command: Callable[..., Any]) -> None:
    def account() -> dict[str, Any]:
        content: dict[str, Any] = fleet.http.get("/v1/diagnosis?window=1h").json()
        return content

    settle(fleet)
    before = account()
    conversation = messages("a weir", 120)
    first = fleet.chat(BASE, conversation)
    settle(fleet)
    reused = fleet.chat("safety", conversation)
    twin = fleet.chat("safety-lora", conversation)
    after = account()
    ladder = {rung: after["ladder"][rung] - before["ladder"][rung] for rung in after["ladder"]}
    missed = {cause: after["missed"][cause] - before["missed"][cause] for cause in after["missed"]}
    assert after["calls"] - before["calls"] == 3
    assert ladder["endless"] == ladder["delivered"] == reused.cached_tokens
    assert ladder["prompt"] == sum(reply.prompt_tokens for reply in (first, reused, twin))
    assert missed.pop("salted") >= 0.9 * first.prompt_tokens - BLOCK
    assert not any(missed.values()), missed
    shown = command("diagnose", "--url", fleet.url, "--window", "1h")
    assert f"{after['ladder']['delivered']:,}" in shown.stdout, shown.stdout + shown.stderr


@pytest.mark.parametrize("window", ["", "1", "1d", "30s", "25h"])
def test_a_window_that_is_none_is_a_400(fleet: Any, window: str) -> None:
    answer = fleet.http.get("/v1/savings", params={"window": window})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "window"


def test_a_replica_needs_neither_torch_nor_much_memory(fleet: Any) -> None:
    for process in engines(fleet):
        assert not [one.path for one in process.memory_maps() if "torch" in one.path or "vllm" in one.path]
        assert process.memory_full_info().uss < MAX_REPLICA_BYTES


def test_another_key_space_is_refused_with_the_difference(
    fleet: Any, redis_url: str, command: Callable[..., Any], tmp_path: Path
) -> None:
    link_models(fleet.state_dir, tmp_path)
    config = tmp_path / "other.yaml"
    config.write_text("engine: simulated\nblock_tokens: 64\ndtype: float32\n")
    refused = command(
        "up", "--config", str(config), "--redis-url", redis_url, "--state-dir", str(tmp_path), "--port", "18999"
    )
    assert refused.returncode == 3, refused.stdout
    assert "block_tokens is 64 and the fleet's is 32" in " ".join(refused.stderr.split())


def test_in_an_outage_an_applications_conversations_spread_and_stay_and_the_directory_fills_again(
    fleet: Any, redis_server: Any
) -> None:
    """They share a system prompt that is longer than most: by its blocks they are one conversation."""
    system = {"role": "system", "content": "You are the concierge of an old hotel by the sea. " * 60}

    def conversation(number: int, turns: int = 1) -> list[dict[str, str]]:
        turn = {"role": "user", "content": f"Guest {number} asks for a room with a view. " * 10}
        return [system, *[turn] * turns]

    def ask(number: int) -> Any:
        return fleet.chat(BASE, conversation(number), 1)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(1000, 1030)))
    redis_server.terminate()
    lost_at = time.monotonic()
    try:
        with ThreadPoolExecutor(4) as pool:
            replies = list(pool.map(ask, range(60)))
        assert {reply.policy for reply in replies} == {"fallback"}
        by_replica = Counter(reply.replica for reply in replies)
        assert len(by_replica) == REPLICAS
        assert max(by_replica.values()) < 2 * 60 / REPLICAS, by_replica
        # For so long the loads of the last lookup count, which a burst may have left uneven.
        fleet.wait_until(lambda: time.monotonic() > lost_at + LEASE_TTL_S, 10, "the last loads to be forgotten")
        for number in range(12):
            first, second = ask(number), fleet.chat(BASE, conversation(number, 3), 1)
            assert first.replica == second.replica
            assert second.cached_tokens > first.prompt_tokens - 64
    finally:
        redis_server.start()

    def found() -> bool:
        reply = ask(0)
        return reply.policy == "expected-ttft" and "holds" in reply.reason

    fleet.wait_until(found, 120, "the directory to be full again")


def test_a_killed_replica_takes_no_call_along_and_is_forgotten(fleet: Any) -> None:
    settle(fleet)
    is_over = threading.Event()

    def keep_calling(number: int) -> list[str]:
        texts: list[str] = []
        while len(texts) < 3 or not is_over.is_set():
            texts.append(fleet.chat("safety" if number % 2 else BASE, messages(f"island {number}"), 24).text)
        return texts

    known = engines(fleet)
    assert len(known) == REPLICAS
    with ThreadPoolExecutor(6) as pool:
        calls = [pool.submit(keep_calling, number) for number in range(6)]
        fleet.wait_until(lambda: at_work(fleet) >= 3, 120, "calls on the replicas")
        try:
            os.kill(known[0].pid, signal.SIGKILL)
            killed = time.monotonic()
            fleet.wait_until(lambda: time.monotonic() > killed + LEASE_TTL_S + 1, 120, "its lease to have ended")
        finally:
            is_over.set()
        answered = [call.result() for call in calls]
    for texts in answered:
        assert len(set(texts)) == 1
    fleet.wait_until(lambda: len(fleet.replicas()["replicas"]) == REPLICAS, 200, "the replica to be replaced")
    assert known[0].pid not in [one.pid for one in engines(fleet)]


def at_work(fleet: Any) -> int:
    """Return how many calls the replicas have."""
    loads = [one["load"] for one in fleet.replicas()["replicas"]]
    return sum(load["running"] + load["waiting"] for load in loads)
