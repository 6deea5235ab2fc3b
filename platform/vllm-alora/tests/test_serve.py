"""The plugin under vLLM's own OpenAI server, as a user starts it: ``--enable-lora --lora-modules NAME=PATH``."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from tiny import ADAPTERS, ENVIRONMENT, Reference, words, write_adapter

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

CERTAINTY = list(ADAPTERS["certainty"][1] or ())


@dataclass
class Server:
    """A running server and the folder of its adapters."""

    url: str
    adapters_path: Path
    log: Path

    def post(self, path: str, **body: Any) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", json=body, timeout=120, trust_env=False)

    def complete(self, model: str, prompt: list[int]) -> httpx.Response:
        return self.post(
            "/v1/completions", model=model, prompt=prompt, max_tokens=8, min_tokens=8, temperature=0, ignore_eos=True
        )

    def counters(self) -> dict[str, float]:
        lines = httpx.get(f"{self.url}/metrics", timeout=30, trust_env=False).text.splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line.startswith("vllm_alora_"))
        return {name: float(value) for name, value in pairs if "_created" not in name}


@pytest.fixture(scope="module")
def server(model_path: Path, adapters_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve the tiny model with one adapter, on a free port of this machine."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(adapters_path / "certainty", folder / "certainty")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model_path)]
    command += ["--served-model-name", "base", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--dtype", "float32", "--enforce-eager", "--block-size", "32", "--max-model-len", "512"]
    command += ["--enable-lora", "--max-lora-rank", "16", "--lora-modules", f"certainty={folder / 'certainty'}"]
    command += ["--enable-prompt-tokens-details"]
    environment = {**os.environ, **ENVIRONMENT, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_LOGGING_LEVEL": "INFO"}
    log = tmp_path_factory.mktemp("log") / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 300
        while not _is_up(url):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.25)
        yield Server(url, folder, log)
    finally:
        process.terminate()
        process.wait(60)


def _is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def test_an_alora_call_goes_on_from_the_base_models_blocks(server: Server) -> None:
    """With the counters that vLLM's endpoint shows."""
    before = server.counters()
    prompt = words(100, 600)
    assert server.complete("base", prompt).status_code == 200
    answer = server.complete("certainty", [*prompt, *CERTAINTY])
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 96
    grown = {name: value - before[name] for name, value in server.counters().items()}
    assert grown == {
        'vllm_alora_requests_total{engine="0",kind="base",model_name="base"}': 1,
        'vllm_alora_requests_total{engine="0",kind="lora",model_name="base"}': 0,
        'vllm_alora_requests_total{engine="0",kind="alora",model_name="base"}': 1,
        'vllm_alora_tokens_total{effect="masked",engine="0",model_name="base"}': 100,
        'vllm_alora_tokens_total{effect="adapted",engine="0",model_name="base"}': 2 + 8,
        'vllm_alora_cross_adapter_cached_tokens_total{engine="0",model_name="base"}': 96,
    }


def test_a_prompt_without_the_invocation_is_a_400_that_says_what_was_expected(server: Server) -> None:
    """In OpenAI's error form, naming the adapter, the text and the token ids."""
    answer = server.complete("certainty", words(20, 601))
    assert answer.status_code == 400
    message = answer.json()["error"]["message"]
    assert "'certainty'" in message
    assert "'w901 w902'" in message
    assert "[901, 902]" in message


def test_the_model_list_and_the_log_say_what_an_adapter_is(server: Server) -> None:
    """With its invocation, as text in the log."""
    cards = httpx.get(f"{server.url}/v1/models", timeout=30, trust_env=False).json()["data"]
    kinds = {card["id"]: (card.get("kind"), card.get("alora_invocation_tokens")) for card in cards}
    assert kinds == {"base": (None, None), "certainty": ("alora", CERTAINTY)}
    assert "'certainty'" in server.log.read_text()
    assert "is an aLoRA: invocation 'w901 w902' (token ids [901, 902])" in server.log.read_text()


WRONG = [
    ({"alora_invocation_tokens": None, "invocation_string": "w901 w902"}, "Add alora_invocation_tokens"),
    ({"target_modules": ["q_proj", "lm_head"]}, "cannot target 'lm_head'"),
]


@pytest.mark.parametrize(("changes", "said"), WRONG, ids=["by the front end", "by the worker"])
def test_an_adapter_that_would_be_served_wrongly_is_a_400_when_it_is_loaded(
    server: Server, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    """With words on what to change; the server goes on."""
    shutil.copytree(server.adapters_path / "certainty", tmp_path / "wrong")
    file = tmp_path / "wrong" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    answer = server.post("/v1/load_lora_adapter", lora_name="wrong", lora_path=str(tmp_path / "wrong"))
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]
    assert server.complete("base", words(5, 604)).status_code == 200


def test_an_adapter_whose_weights_are_damaged_stays_vllms_error(server: Server, tmp_path: Path) -> None:
    """The plugin answers for configurations only."""
    shutil.copytree(server.adapters_path / "certainty", tmp_path / "damaged")
    (tmp_path / "damaged" / "adapter_model.safetensors").write_bytes(b"no weights")
    answer = server.post("/v1/load_lora_adapter", lora_name="damaged", lora_path=str(tmp_path / "damaged"))
    assert answer.status_code == 500
    assert server.complete("base", words(5, 605)).status_code == 200


def test_beam_search_with_an_alora_is_a_400(server: Server) -> None:
    body = {"prompt": [*words(20, 605), *CERTAINTY], "max_tokens": 2, "use_beam_search": True, "n": 2}
    answer = server.post("/v1/completions", model="certainty", **body)
    assert answer.status_code == 400
    assert "beam search" in answer.json()["error"]["message"]
    assert server.post("/v1/completions", model="base", **body).status_code == 200


def test_the_reserved_key_cannot_come_from_a_client(server: Server) -> None:
    """``vllm_xargs`` is how clients reach ``extra_args``."""
    answer = server.post(
        "/v1/completions", model="base", prompt=[5, 6], max_tokens=1, vllm_xargs={"vllm_alora.activation": 0}
    )
    assert answer.status_code == 400
    assert "reserved" in answer.json()["error"]["message"]


def test_an_adapter_swapped_under_its_name_answers_with_its_new_weights(server: Server, model_path: Path) -> None:
    """``/v1/load_lora_adapter`` with ``load_inplace``; later calls neither meet old blocks nor read the files again."""
    prompt = [*words(70, 602), *CERTAINTY, *words(40, 603)]
    path = server.adapters_path / "certainty"
    assert server.complete("certainty", prompt).status_code == 200
    shutil.rmtree(path)
    write_adapter(path, model_path, rank=8, invocation=CERTAINTY, seed=70)
    swapped = server.post("/v1/load_lora_adapter", lora_name="certainty", lora_path=str(path), load_inplace=True)
    assert swapped.status_code == 200, swapped.text
    expected = Reference(model_path, server.adapters_path, ("certainty",)).answer(prompt, "certainty").tokens
    text = " ".join(f"w{token}" for token in expected)
    first = server.complete("certainty", prompt).json()
    assert first["choices"][0]["text"].split() == text.split()
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 64
    path.rename(path.with_name("moved"))
    again = server.complete("certainty", prompt)
    path.with_name("moved").rename(path)
    assert again.status_code == 200, "the worker read the adapter's files again"
    assert again.json()["choices"][0]["text"].split() == text.split()
