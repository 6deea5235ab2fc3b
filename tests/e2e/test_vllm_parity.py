"""The platform's answers against those of a real ``vllm serve`` on the same model, field by field, greedy in float32.

What differs on purpose is taken out of both, or said here:

- ``id``, ``created``, ``system_fingerprint``: of the server and the moment.
- ``usage.prompt_tokens_details`` and ``usage.aloraserve``: what is cached depends on the calls before; vLLM does not
  show it unless it is told to.
- Fields that are null or empty: vLLM writes most of them, the platform leaves them out.
- ``bytes`` of log-probabilities: vLLM has those of the shown text, which is ``token_id:5`` for one that is named by
  its id and nothing for a part of a character. The platform has the token's own.
- How a stream is cut into events: texts, tokens and reasons are joined by choice.
- vLLM shows ``prompt_token_ids`` in a stream with ``echo``, also where nobody asks for them.
- A special token that ends an answer has no text in log-probabilities here, because it has none in the answer.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.parity_cases import CASES, ERRORS, Case
from support.redis_deployments import free_port

BASE = "SmolLM2-135M-Instruct"
START_S = 300
TOLERANCE = 2e-3
"""Of log-probabilities: batches differ."""
AT_ONCE = 8
OWN = {"id", "created", "system_fingerprint", "prompt_tokens_details", "aloraserve", "bytes", "object"}
GROWING = {"content", "text", "logprobs", "token_ids", "reasoning"}
"""What events of a stream add to."""
ENVIRONMENT = {
    "VLLM_PLUGINS": "",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "OMP_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}

pytestmark = pytest.mark.e2e


@contextlib.contextmanager
def vllm_serve(model_path: Path, log: Path) -> Iterator[str]:
    """Run ``vllm serve`` as the platform's engines are set; yield its address.

    By its module: the command looks for a package ``vllm``, and the CPU build has another name.
    """
    port = free_port()
    settings = {
        "model": model_path,
        "served-model-name": BASE,
        "host": "127.0.0.1",
        "port": port,
        "dtype": "float32",
        "max-model-len": 8192,
        "block-size": 32,
        "max-num-seqs": 16,
        "kv-cache-memory-bytes": 1 << 30,
        "structured-outputs-config": '{"backend": "guidance"}',
    }
    flags = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *flags, "--enforce-eager"]
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | ENVIRONMENT)
        try:
            url = f"http://127.0.0.1:{port}"
            _await(url, process, log)
            yield url
        finally:
            process.terminate()
            process.wait(60)


def _await(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-4000:]
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health", trust_env=False).status_code == 200:
                return
        time.sleep(0.2)
    raise AssertionError(f"vllm serve did not start: {log.read_text()[-4000:]}")


@pytest.fixture(scope="module")
def answers(platform: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[httpx.Response]]:
    """All cases' answers: ``vllm serve``'s and the platform's."""
    cases = [*CASES, *ERRORS]
    with vllm_serve(platform.model_path, tmp_path_factory.mktemp("vllm") / "serve.log") as url:
        theirs = _ask_all(url, cases)
    return {"vllm": theirs, "platform": _ask_all(platform.url, cases)}


def _ask_all(url: str, cases: list[Case]) -> list[httpx.Response]:
    with httpx.Client(base_url=url, timeout=300, trust_env=False) as client, ThreadPoolExecutor(AT_ONCE) as pool:
        bodies = [(endpoint, {"model": BASE, "temperature": 0} | fields) for endpoint, fields in cases]
        return list(pool.map(lambda asked: client.post(f"/v1/{asked[0]}", json=asked[1]), bodies))


def name_of(case: Case) -> str:
    endpoint, fields = case
    told = {key: value for key, value in fields.items() if key not in ("messages", "stream_options")}
    return f"{endpoint.partition('/')[0]} {json.dumps(told)[:80]}"


@pytest.mark.parametrize("number", range(len(CASES)), ids=map(name_of, CASES))
def test_the_answer_is_vllm_s(answers: dict[str, list[httpx.Response]], number: int) -> None:
    theirs, ours = answers["vllm"][number], answers["platform"][number]
    assert (theirs.status_code, ours.status_code) == (200, 200), (theirs.text, ours.text)
    wanted, found = content_of(theirs), content_of(ours)
    if is_unasked(CASES[number], "return_token_ids"):
        wanted["choices"] = _without(wanted["choices"], "prompt_token_ids")
    assert differences(wanted, found) == []


@pytest.mark.parametrize("number", range(len(ERRORS)), ids=map(name_of, ERRORS))
def test_an_error_has_vllm_s_status(answers: dict[str, list[httpx.Response]], number: int) -> None:
    theirs, ours = (answers[server][len(CASES) + number] for server in ("vllm", "platform"))
    assert (theirs.status_code, ours.status_code) == (400, 400), (theirs.text, ours.text)
    assert ours.json()["error"]["message"]


def is_unasked(case: Case, field: str) -> bool:
    return not case[1].get(field)


def _without(choices: Any, field: str) -> Any:
    """Return choices, of a whole answer or a stream's, without a field."""
    if isinstance(choices, dict):
        return {index: _without([choice], field)[0] for index, choice in choices.items()}
    return [{name: value for name, value in choice.items() if name != field} for choice in choices]


def content_of(response: httpx.Response) -> Any:
    """Return what an answer says, without what is the server's own."""
    if "event-stream" in response.headers["content-type"]:
        lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
        assert lines[-1] == "[DONE]"
        return _plain(_joined([json.loads(line) for line in lines[:-1]]))
    return _plain(response.json())


def _joined(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a stream's events as one answer: what grows is joined, of anything else the last word counts."""
    whole: dict[str, Any] = {"choices": {}}
    for event in events:
        whole |= {name: value for name, value in event.items() if name != "choices" and value is not None}
        for part in event["choices"]:
            choice = whole["choices"].setdefault(str(part["index"]), {})
            for name, value in {**part, **part.get("delta", {})}.items():
                if name != "delta" and value is not None:
                    choice[name] = _grown(choice.get(name), value) if name in GROWING else value
    return whole


def _grown(before: Any, more: Any) -> Any:
    if before is None or more is None:
        return before if more is None else more
    if isinstance(before, dict):
        return {name: _grown(before.get(name), more.get(name)) for name in before | more}
    if isinstance(before, list):
        return before + more
    return before + more if isinstance(before, str) else more


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        inner = {name: _plain(entry) for name, entry in value.items() if name not in OWN}
        return {name: entry for name, entry in inner.items() if entry not in (None, [], {}, "")}
    return [_plain(entry) for entry in value] if isinstance(value, list) else value


def differences(wanted: Any, found: Any, path: str = "") -> list[str]:
    """Return where two answers differ, numbers by more than the tolerance."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        names = sorted(wanted.keys() | found.keys())
        return [line for name in names for line in differences(wanted.get(name), found.get(name), f"{path}.{name}")]
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        return [
            line
            for at, pair in enumerate(zip(wanted, found, strict=True))
            for line in differences(*pair, f"{path}[{at}]")
        ]
    if isinstance(wanted, float) and isinstance(found, float):
        return [] if abs(wanted - found) <= TOLERANCE else [f"{path}: {wanted} != {found}"]
    return [] if wanted == found else [f"{path}: {wanted!r} != {found!r}"]
