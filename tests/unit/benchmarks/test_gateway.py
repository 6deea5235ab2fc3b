"""The gateway benchmark's parts: whose CPU time is whose, what counts as a figure, and where a stack's time goes."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest

from aloraserve.engine_model.calibration import load
from aloraserve.errors import StartError
from aloraserve.wire import ChatRequest, parse_body
from aloraserve_services.engine.simulated.answer_words import AnswerWords, Word
from benchmarks.gateway_abuse import _refused_bodies
from benchmarks.gateway_calls import TEMPLATE_TOKENS, Bodies
from benchmarks.gateway_profile import parse_stacks, rooms
from benchmarks.gateway_result import (
    ADDED_P50,
    ADDED_P99,
    CALL_CPU,
    CALL_CPU_ALL,
    CHUNK_CPU,
    CHUNK_CPU_ALL,
    OF_BARE,
    TTFT_P50,
    TTFT_P99,
    ArmResult,
    add_ttft,
    judged,
)
from benchmarks.harness.calibrations import instant
from benchmarks.harness.detached_platform import sources_of
from benchmarks.harness.flame_graph import flame_graph
from benchmarks.harness.processes import COMMAND, ENGINES, PlatformProcesses, part_of, used, without_engines

BODIES = Bodies("smollm2", AnswerWords([Word(number, f" w{number}") for number in range(50)]))


@pytest.mark.parametrize(
    ("command", "part"),
    [
        ("ray::ServeReplica:aloraserve:engine", ENGINES),
        ("ray::ServeReplica:aloraserve:gateway.handle_request", "gateway"),
        ("ray::ServeReplica:llm:LLMServer:smollm2", ENGINES),
        ("ray::ServeReplica:llm:OpenAiIngress", "gateway"),
        ("ray::ProxyActor", "serve proxy"),
        ("/x/ray/core/src/ray/raylet/raylet --raylet_socket_name", "raylet"),
        ("valkey-server unixsocket:/tmp/redis.sock", "redis"),
        ("sleep 1", "others"),
    ],
)
def test_a_process_is_known_by_its_command_line(command: str, part: str) -> None:
    assert part_of(command) == part


def test_the_cpu_time_of_a_process_and_its_children_is_seen() -> None:
    busy = "import time\nprint(flush=True)\nwhile time.process_time() < 60: pass"
    with subprocess.Popen([sys.executable, "-c", busy], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        looked = PlatformProcesses(process.pid)
        before = looked.cpu_s()
        while not (spent := used(before, looked.cpu_s()))[COMMAND]:
            pass
        assert spent[COMMAND] > 0
        assert looked.memory_mb()[COMMAND] > 1
        assert ENGINES in PlatformProcesses(None, engines=process.pid).cpu_s()
        process.kill()


def test_engines_are_left_out_of_a_call_s_cost_and_turns_give_their_median() -> None:
    result = ArmResult("this")
    result.call_cpu_ms = [{"gateway": cost, "redis": 0.5, ENGINES: 9.0} for cost in (3.0, 30.0, 2.0)]
    result.chunk_cpu_ms = [{"gateway": 0.05, ENGINES: 1.0}]
    result.samples[TTFT_P50] += [7.0, 5.0, 6.0]
    expected = {CALL_CPU: 3.5, CALL_CPU_ALL: 12.5, CHUNK_CPU: 0.05, CHUNK_CPU_ALL: 1.05, TTFT_P50: 6.0}
    assert result.figures() == expected
    verdicts = {figure.name: figure.is_met for figure in judged(result)}
    assert verdicts == dict.fromkeys(expected) | {CALL_CPU: True, CHUNK_CPU: True}
    bare = ArmResult("bare engines", call_cpu_ms=[{ENGINES: 2.0}])
    assert bare.figures() == {CALL_CPU_ALL: 2.0}
    assert without_engines(result.call_cpu_ms[0]) == 3.5


def test_added_ttft_is_that_above_the_bare_engine_s_median_and_throughput_is_a_bound_from_below() -> None:
    results = [ArmResult("this"), ArmResult("bare engines")]
    add_ttft(results, {"this": [0.006, 0.007, 0.030], "bare engines": [0.002, 0.003, 0.009]})
    results[0].samples[OF_BARE] += [0.97, 0.96, 0.90]
    assert results[0].figures() == pytest.approx(
        {TTFT_P50: 7, TTFT_P99: 30, ADDED_P50: 4, ADDED_P99: 27, OF_BARE: 0.96}
    )
    verdicts = {figure.name: figure.is_met for figure in judged(results[0])}
    assert verdicts == {TTFT_P50: None, TTFT_P99: None, ADDED_P50: True, ADDED_P99: False, OF_BARE: True}


def test_prompts_are_valid_chats_of_the_length_that_was_asked_for_and_never_repeat() -> None:
    bodies = [BODIES.fresh(500, 1), BODIES.fresh(500, 1, stream=True)]
    texts = [body["messages"][0]["content"] for body in bodies]
    assert [len(text.split()) for text in texts] == [500 - TEMPLATE_TOKENS] * 2
    assert texts[0] != texts[1]
    assert bodies[1]["stream"] is True


def test_refused_bodies_have_the_size_that_was_asked_for() -> None:
    made = [body for _, body in _refused_bodies("smollm2", 10_000)]
    assert all(9_960 <= len(body) <= 10_000 for body in made[:-1])
    assert len(made[-1]) > 8_000_000
    for body in made[1:10:2]:
        with pytest.raises(Exception, match=r"messages|body"):
            parse_body(ChatRequest, body)


def test_a_stack_belongs_to_its_innermost_known_frame() -> None:
    lines = [
        "run (asyncio/runners.py:1);call (ray/serve/replica.py:2);parse_body (aloraserve/wire/body.py:3) 6",
        "run (asyncio/runners.py:1);call (ray/serve/replica.py:2);dumps (json/encoder.py:3) 2",
        "run (asyncio/runners.py:1);get (ray/_private/worker.py:2);__getitem__ (collections/__init__.py:3) 1",
        "start (unknown.py:1) 1",
    ]
    assert rooms(parse_stacks(lines)) == {
        "validation and answers (wire, pydantic)": 0.6,
        "Ray Serve": 0.2,
        "Ray core": 0.1,
        "other libraries": 0.1,
    }


def test_a_flame_graph_is_a_picture_whose_bars_are_as_wide_as_their_time() -> None:
    stacks = Counter({"main;work <fast>": 75, "main;rest": 25, "main;rare": 0})
    root = ElementTree.fromstring(flame_graph(stacks, "gateway & co"))
    space = "{http://www.w3.org/2000/svg}"
    bars = {group.findtext(f"{space}title"): group.find(f"{space}rect") for group in root.iter(f"{space}g")}
    assert {title: bar.get("width") for title, bar in bars.items() if bar is not None} == {
        "main: 100.0%": "1200.0",
        "work <fast>: 75.0%": "900.0",
        "rest: 25.0%": "300.0",
    }


def test_an_instant_engine_keeps_its_memory_and_hardly_takes_time() -> None:
    whole = load("live-peers")
    fast = instant(whole, token_s=0.001)
    assert fast.prefill.model.seconds(0, 1000) < 0.002
    assert fast.decode.fixed_s == 0.001
    assert (fast.kv_tokens, fast.max_num_seqs) == (whole.kv_tokens, whole.max_num_seqs)


def test_a_baseline_has_to_be_a_checkout(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="is not a checkout"):
        sources_of(tmp_path)
    root = Path(__file__).parents[3]
    assert str(root / "services") in sources_of(root)["PYTHONPATH"]
