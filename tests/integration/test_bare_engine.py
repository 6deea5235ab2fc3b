"""``aloraserve engine --simulated``: OpenAI's own client, and what other projects' routers send and ask."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest

from benchmarks.harness.bare_engines import free_ports

BASE = "bare"
LONG = " ".join(["harbour"] * 400)
STOP_S = 10

pytestmark = pytest.mark.untimed


@dataclass(frozen=True)
class Server:
    """A running bare engine."""

    url: str
    process: subprocess.Popen[bytes]
    client: openai.OpenAI
    http: httpx.Client

    def running(self) -> float:
        """Return how many calls the engine says that it runs."""
        found = re.search(r"^vllm:num_requests_running\{.*\} (\S+)$", self.http.get("/metrics").text, re.MULTILINE)
        assert found is not None
        return float(found[1])


@pytest.fixture(scope="module")
def server(model_path: Path, state_dir: Path) -> Iterator[Server]:
    url = f"http://127.0.0.1:{free_ports(2)}"
    command = [sys.executable, "-m", "aloraserve_services.cli.main", "engine", "--simulated", "--served-name", BASE]
    where = [
        "--count",
        "2",
        "--port",
        url.rpartition(":")[2],
        "--model",
        str(model_path),
        "--state-dir",
        str(state_dir),
    ]
    with (
        subprocess.Popen([*command, *where]) as process,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
        httpx.Client(base_url=url, timeout=30, trust_env=False) as http,
    ):
        deadline = time.monotonic() + 120
        while not _answers(http):
            assert process.poll() is None
            assert time.monotonic() < deadline
        yield Server(url, process, client, http)
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_S)


@pytest.fixture
def second(server: Server) -> Iterator[httpx.Client]:
    host, _, port = server.url.rpartition(":")
    with httpx.Client(base_url=f"{host}:{int(port) + 1}", timeout=30, trust_env=False) as http:
        while not _answers(http):
            assert server.process.poll() is None
        yield http


def _answers(http: httpx.Client) -> bool:
    try:
        return http.get("/health").status_code == 200
    except httpx.ConnectError:
        return False


def test_several_engines_have_ports_in_a_row_and_caches_of_their_own(second: httpx.Client, server: Server) -> None:
    def cached(http: httpx.Client) -> int:
        answer = http.post("/v1/completions", json={"model": BASE, "prompt": f"two {LONG}", "max_tokens": 1}).json()
        return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])

    assert [cached(server.http), cached(second), cached(second) > 300] == [0, 0, True]


def test_models_are_the_base_and_its_adapters(server: Server) -> None:
    names = [model.id for model in server.client.models.list()]
    assert names[0] == BASE
    assert {"safety", "safety-lora"} <= set(names)


def test_a_streamed_chat_is_the_whole_one(server: Server) -> None:
    messages = [{"role": "user", "content": "Which ferries run on Sunday?"}]
    whole = server.client.chat.completions.create(model=BASE, messages=messages, max_tokens=20)  # type: ignore[call-overload]
    stream = server.client.chat.completions.create(  # type: ignore[call-overload]
        model=BASE, messages=messages, max_tokens=20, stream=True, stream_options={"include_usage": True}
    )
    *parts, last = list(stream)
    assert "".join(part.choices[0].delta.content or "" for part in parts) == whole.choices[0].message.content
    assert parts[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert last.usage.completion_tokens == whole.usage.completion_tokens == 20


def test_an_alora_reuses_the_base_model_s_prompt_and_a_lora_its_own(server: Server) -> None:
    def cached(model: str) -> int:
        usage = server.client.completions.create(model=model, prompt=f"alora {LONG}", max_tokens=2).usage
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        return usage.prompt_tokens_details.cached_tokens or 0

    assert cached(BASE) == 0
    assert cached("safety") > 300
    assert cached("safety-lora") == 0
    assert cached("safety-lora") > 300


def test_token_ids_and_several_choices_are_taken(server: Server) -> None:
    done = server.client.completions.create(model=BASE, prompt=[100, 200, 300], max_tokens=4, n=2)
    assert len({choice.text for choice in done.choices}) == 2
    assert done.usage is not None
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (3, 8)


def test_fields_that_routers_add_are_passed_over(server: Server) -> None:
    added = {"no_stop_trim": False, "regex": None, "return_hidden_states": False, "separate_reasoning": True}
    messages = [{"role": "user", "content": "hello", "name": None}]
    sent = {"model": BASE, "messages": messages, "max_tokens": 2, **added}
    assert server.http.post("/v1/chat/completions", json=sent).status_code == 200


@pytest.mark.parametrize("path", ["/health", "/get_model_info", "/model_info", "/get_server_info", "/server_info"])
def test_what_routers_ask_an_engine_for_is_there(server: Server, path: str) -> None:
    assert server.http.get(path).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b'{"model":"nobody","prompt":"a"}', 404, "'nobody' is not served"),
        (b'{"model":"bare","prompt":""}', 400, "none is empty"),
        (b'{"model":"bare","prompt":"a","max_tokens":0}', 400, "max_tokens"),
        (b'{"model":"bare"', 400, "not valid JSON"),
        (b"[1]", 400, "not a JSON object"),
        (b"\xff", 400, "not UTF-8"),
    ],
)
def test_a_bad_request_is_refused_with_its_reason(server: Server, body: bytes, status: int, said: str) -> None:
    answer = server.http.post("/v1/completions", content=body)
    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]


def test_a_client_that_goes_away_ends_its_call(server: Server) -> None:
    sent = {"model": BASE, "prompt": "hello", "max_tokens": 5000, "ignore_eos": True, "stream": True}
    with server.http.stream("POST", "/v1/completions", json=sent) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("data: ")
        assert server.running() == 1
    deadline = time.monotonic() + 30
    while server.running():
        assert time.monotonic() < deadline


@pytest.mark.parametrize(("field", "value"), [("adapters", "auto"), ("guard", ["safety"]), ("intrinsics", ["safety"])])
def test_what_takes_several_calls_needs_a_gateway(server: Server, field: str, value: object) -> None:
    body = {"model": BASE, "messages": [{"role": "user", "content": "hi"}], field: value}
    answer = server.http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field
    assert "needs a gateway" in answer.json()["error"]["message"]
