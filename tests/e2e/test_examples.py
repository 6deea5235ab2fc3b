"""Each example does what its first lines say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from support.redis_deployments import Server, free_port

from aloraserve_services.models.shipped_adapters import shipped_names
from aloraserve_services.models.untrained import PIPELINE, write_untrained_adapters

EXAMPLES = Path(__file__).parents[2] / "examples"
JUDGES = ("uncertainty", "safety", "hallucination")
STEPS = ("safety", "answerability", "uncertainty", "hallucination")

pytestmark = [pytest.mark.e2e, pytest.mark.untimed, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of its own on a port, as the example's file has one."""
    server = Server(tmp_path_factory.mktemp("redis"))
    server.start()
    yield f"redis://127.0.0.1:{server.port}/0"
    server.kill()


@pytest.fixture(scope="module")
def pipeline_dir(tmp_path_factory: pytest.TempPathFactory, model_path: Path) -> Path:
    """The adapters that the demo serves."""
    root = tmp_path_factory.mktemp("pipeline")
    write_untrained_adapters(root, model_path, names=PIPELINE)
    return root


@pytest.fixture(scope="module")
def grpc_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def fleet(start: Callable[..., Any], redis_url: str, pipeline_dir: Path, grpc_port: int) -> Iterator[Any]:
    """Two simulated engines with the example's Redis settings and the example's policy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        patch.setenv("PYTHONPATH", str(EXAMPLES), prepend=":")
        flags = ("--config", str(EXAMPLES / "external_redis.yaml"), "--redis-url", redis_url)
        flags = (*flags, "--adapters-dir", str(pipeline_dir), "--grpc-port", str(grpc_port))
        with start("--engine", "simulated", "--policy", "own_policy:WarmOrShortest", *flags, own_state=True) as running:
            yield running


def run(example: str, *arguments: str) -> str:
    """Run an example to its end and return what it printed."""
    command = [sys.executable, str(EXAMPLES / example), *arguments]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    done = subprocess.run(command, text=True, capture_output=True, timeout=400, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_the_openai_client_reuses_the_base_model_s_blocks(fleet: Any) -> None:
    printed = run("openai_client.py", fleet.url)
    found = re.search(r"reused (\d+) of (\d+) prompt tokens on engine-\d: holds \d+ tokens", printed)
    assert found, printed
    assert int(found[1]) > 0.7 * int(found[2])


def test_the_platform_s_own_client_does_so_over_either_transport(fleet: Any, grpc_port: int) -> None:
    for url in (fleet.url, f"grpc://127.0.0.1:{grpc_port}"):
        printed = run("own_client.py", url)
        found = re.search(r"reused (\d+) of (\d+) prompt tokens", printed)
        assert found, printed
        assert int(found[1]) > 0.7 * int(found[2])
        assert "404 model_not_found: model 'nobody' is not served" in printed


def test_every_step_of_the_rag_pipeline_goes_on_from_the_base_model_s_blocks(fleet: Any) -> None:
    printed = run("rag_intrinsics.py", fleet.url)
    for step in STEPS:
        found = re.findall(rf"{step} +(\d+) tokens reused .* probability [01]\.\d\d \(untrained\)", printed)
        reused = [int(tokens) for tokens in found]
        assert len(reused) == (5 if step == "hallucination" else 3), printed
        # The first step computes what all others go on from.
        assert min(reused) >= (96 if step != "safety" else 0), printed
    # What is untrained refuses nothing.
    assert printed.count("answer: ") == 3


@pytest.fixture(scope="module")
def trained(start: Callable[..., Any]) -> Iterator[Any]:
    """A real engine that serves what it does if nothing is named: the adapters that come with the project."""
    with start("--replicas", "1", own_state=True, names_adapters=False) as running:
        yield running


def test_the_rag_pipeline_catches_what_was_planted(trained: Any) -> None:
    printed = run("rag_intrinsics.py", trained.url)
    asked = {part.partition("\n")[0]: part for part in printed.strip().split("\n\n")}
    fare, car, bomb, winter = asked.values()
    assert re.search(r"safety +\d+ tokens reused  N +probability 0\.", fare), printed
    assert re.search(r"safety +\d+ tokens reused  Y +probability [01]\.", bomb), printed
    assert "not answered" in bomb
    assert "answer: " in fare
    faithful, made_up = re.findall(r'hallucination +\d+ tokens reused  "(yes|no)"', winter)
    assert (faithful, made_up) == ("no", "yes"), printed
    if "answerability" in shipped_names():
        assert ("not answered" in car, " answerable " in fare) == (True, True), printed
    else:
        assert car.count("(untrained)") == 1
    in_log = (trained.state_dir / "up.log").read_text()
    assert ("with random weights" in in_log) == any(
        f"{name}{twin}" not in shipped_names() for name in PIPELINE for twin in ("", "-lora")
    )


def test_the_external_redis_holds_the_fleet_s_directory(fleet: Any, redis_url: str) -> None:
    fleet.chat(JUDGES[0], [{"role": "user", "content": "Does the ferry leave today? " * 20}])
    with Redis.from_url(redis_url) as client:
        assert [*client.scan_iter("{aloraserve:example}:*:replicas")]


def test_the_policy_of_one_s_own_decides(fleet: Any) -> None:
    conversation = [{"role": "user", "content": "Tell me about the old pier. " * 30}]
    first = fleet.chat(JUDGES[1], conversation)
    assert (first.policy, first.reason) == ("warm-or-shortest", "has the shortest queue")
    fleet.settle()
    second = fleet.chat(JUDGES[1], conversation)
    assert second.replica == first.replica
    assert second.reason.startswith("holds "), second.reason


def test_plain_vllm_with_the_plugin_reuses_the_base_model_s_blocks(model_path: Path, adapters_dir: Path) -> None:
    flags = ("--dtype", "float32", "--enforce-eager", "--block-size", "32", "--max-model-len", "1024")
    printed = run("plain_vllm.py", str(model_path), str(adapters_dir / "safety"), *flags)
    found = re.search(r"^judge: (\d+) of (\d+) tokens reused", printed, re.MULTILINE)
    assert found, printed
    assert int(found[1]) > 0.7 * int(found[2])
