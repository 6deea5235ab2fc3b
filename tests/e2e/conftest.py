"""The whole platform as a user starts it: ``aloraserve up`` with a Redis of the tests, two engines, fp32."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from support.model import link_models, smollm2
from support.own_valkey import socket_url, valkey_server
from support.waiting import wait_until

from aloraserve.blocks import activation_point
from aloraserve_services.models.untrained import INTRINSICS, invocation_text, write_untrained_adapters

BASE = "SmolLM2-135M-Instruct"
BLOCK = 32
STILL_READS = 5
"""Equal reads in a row, a tenth of a second apart, that count as nothing happening any more."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run last what shares a platform, which then stands idle beside nothing else; and of that what kills replicas."""
    items.sort(key=lambda item: (_shares_a_platform(item), "e2e/test_failures" in item.nodeid))


def _shares_a_platform(item: pytest.Item) -> bool:
    return "e2e/" in item.nodeid and "platform" in getattr(item, "fixturenames", ())


@dataclass(frozen=True)
class Reply:
    """What came of one call."""

    text: str
    cached_tokens: int
    prompt_tokens: int
    replica: str
    policy: str
    reason: str
    logprobs: list[float] = field(default_factory=list)


@dataclass
class Platform:
    """A running platform and ways to call it."""

    url: str
    state_dir: Path
    model_path: Path
    tokenizer: Any
    api_key: str = "none"
    clients: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    """Closed when the platform stops; another tenant's view of the platform shares it."""

    @functools.cached_property
    def http(self) -> httpx.Client:
        # A connection of its own for each call: a platform may lose a part of itself between two.
        limits = httpx.Limits(max_keepalive_connections=0)
        client = httpx.Client(base_url=self.url, timeout=300, trust_env=False, limits=limits)
        return self.clients.enter_context(client)

    @functools.cached_property
    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{self.url}/v1",
            api_key=self.api_key,
            timeout=300,
            max_retries=0,
            http_client=self.http,
        )

    def chat(self, model: str, messages: list[dict[str, str]], max_tokens: int = 4) -> Reply:
        """Make a greedy chat call."""
        raw = self.openai.chat.completions.with_raw_response.create(
            model=model, messages=messages, max_tokens=max_tokens, temperature=0
        )
        return _reply(raw.headers, raw.parse().usage, raw.parse().choices[0].message.content)

    def complete(self, model: str, token_ids: list[int], max_tokens: int = 4) -> Reply:
        """Make a greedy completion call that also asks for log-probabilities."""
        raw = self.openai.completions.with_raw_response.create(
            model=model, prompt=token_ids, max_tokens=max_tokens, temperature=0, logprobs=0
        )
        choice = raw.parse().choices[0]
        return _reply(raw.headers, raw.parse().usage, choice.text, choice.logprobs.token_logprobs)

    def prompt(self, messages: list[dict[str, str]], adapter: str | None = None) -> list[int]:
        """Return the token ids that a chat call has, those of an aLoRA's invocation included."""
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=adapter is None)
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return [*ids, *self.invocation(adapter)] if adapter else list(ids)

    def invocation(self, adapter: str) -> list[int]:
        """Return an aLoRA's invocation tokens; its twin's are its own."""
        return list(self.tokenizer.encode(invocation_text(adapter.removesuffix("-lora")), add_special_tokens=False))

    def reusable(self, prompt: list[int], computed: list[int], adapter: str | None) -> int:
        """Return the tokens in whole blocks before the activation point that an earlier call computed."""
        end = len(prompt) - 1 if adapter is None else activation_point(prompt, self.invocation(adapter))
        assert end is not None
        common = next((i for i, (a, b) in enumerate(zip(prompt, computed, strict=False)) if a != b), len(computed))
        return min(common, end) // BLOCK * BLOCK

    def replicas(self) -> dict[str, Any]:
        """Return what the platform says of its replicas."""
        content: dict[str, Any] = self.http.get("/v1/replicas").json()
        return content

    def metrics(self, role: str) -> list[str]:
        """Return the metrics of each process of a role, from its own port."""
        found = self.http.get("/v1/metrics/targets").json()
        ports = [group["targets"][0] for group in found if group["labels"]["role"] == role]
        return [httpx.get(f"http://{port}/metrics", timeout=30, trust_env=False).text for port in ports]

    def wait_until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Wait for a state of the platform."""
        wait_until(condition, what, timeout_s)

    def settle(self) -> None:
        """Wait until nothing runs and what the replicas hold has reached the directory."""
        last: list[Any] = []

        def idle() -> bool:
            states = self.replicas()["replicas"]
            quiet = len(states) == 2 and all(one["load"]["running"] + one["load"]["waiting"] == 0 for one in states)
            held = [(one["incarnation"], one["held_blocks"]) for one in states] if quiet else []
            last.append(held)
            return quiet and last[-STILL_READS:] == [held] * STILL_READS

        self.wait_until(idle, 120, "both replicas idle")

    @property
    def process(self) -> psutil.Process:
        """The platform's own process."""
        return psutil.Process(json.loads((self.state_dir / "run.json").read_text())["pid"])


def _reply(headers: Any, usage: Any, text: str, logprobs: list[float] | None = None) -> Reply:
    return Reply(
        text=text,
        cached_tokens=usage.prompt_tokens_details.cached_tokens,
        prompt_tokens=usage.prompt_tokens,
        replica=headers["x-aloraserve-replica"],
        policy=headers["x-aloraserve-policy"],
        reason=headers.get("x-aloraserve-reason", ""),
        logprobs=logprobs or [],
    )


@pytest.fixture(scope="session")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="session")
def model_path(state_dir: Path) -> Path:
    return smollm2(state_dir, "float32")


@pytest.fixture(scope="session")
def adapters_dir(tmp_path_factory: pytest.TempPathFactory, model_path: Path) -> Path:
    """Three aLoRA adapters, their LoRA twins, and one that must be refused."""
    root = tmp_path_factory.mktemp("adapters")
    write_untrained_adapters(root, model_path)
    shutil.copytree(root / "safety", root / "broken")
    (root / "broken" / "adapter_model.safetensors").rename(root / "broken" / "adapter_model.bin")
    return root


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def aloraserve(*arguments: str, timeout: float = 600, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    # These tests are about where calls go, not how fast: on a busy machine a lookup may miss its 10 ms and fall back.
    environment = {**os.environ, "COLUMNS": "200", "ALORASERVE_LOOKUP_BUDGET_MS": "500"}
    command = [sys.executable, "-m", "aloraserve_services.cli.main", *arguments]
    return subprocess.run(command, text=True, capture_output=True, env=environment, timeout=timeout, **options)


@pytest.fixture(scope="session")
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    return aloraserve


@pytest.fixture(scope="session")
def start(state_dir: Path, model_path: Path, adapters_dir: Path) -> Callable[..., Any]:
    """Start a platform with more flags, beside another one if it has a state folder of its own; a context."""
    from transformers import AutoTokenizer

    @contextlib.contextmanager
    def started(*flags: str, own_state: bool = False, names_adapters: bool = True) -> Iterator[Platform]:
        port = free_port()
        folder = state_dir
        if own_state:
            folder = state_dir.with_name(f"state-{port}")
            link_models(state_dir, folder)
        same: tuple[str, ...] = ("--state-dir", str(folder), "--dtype", "float32")
        if names_adapters:
            same = (*same, "--adapters-dir", str(adapters_dir))
        done = aloraserve("up", "--detach", "--port", str(port), *same, *flags)
        assert done.returncode == 0, done.stderr + (folder / "up.log").read_text()
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(model_path), local_files_only=True)
            running = Platform(f"http://127.0.0.1:{port}", folder, model_path, tokenizer)
            with running.clients:
                yield running
        finally:
            stopped = aloraserve("down", "--state-dir", str(folder))
            assert stopped.returncode == 0, stopped.stderr

    return started


@pytest.fixture(scope="session")
def directory_server() -> Iterator[Any]:
    """The Redis server of the session's platform, which a test may stop and start."""
    with valkey_server() as server:
        yield server


@pytest.fixture(scope="session")
def platform(start: Callable[..., Any], directory_server: Any, state_dir: Path) -> Iterator[Platform]:
    """The platform that most tests share."""
    # Long for a step of these engines on a busy machine, and the steps are short; a test stops one of the engines.
    config = state_dir / "platform.yaml"
    config.write_text("engine_stall_s: 20\nengine_args: {max_num_batched_tokens: 256}\n")
    with start("--redis-url", socket_url(directory_server), "--config", str(config)) as running:
        yield running


@pytest.fixture(scope="session")
def intrinsics() -> tuple[str, ...]:
    return INTRINSICS
