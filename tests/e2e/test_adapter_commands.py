"""Adapters that are registered, pointed to and removed by the command line and by vLLM's API on a running platform."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from support.own_valkey import socket_url, valkey_server

from aloraserve_services.models.untrained import write_untrained_adapters
from benchmarks.adapter_fleet import AdapterFleet
from benchmarks.adapter_switch import SwitchBench
from benchmarks.adapter_versions import VersionsBench
from benchmarks.harness.client import AsyncStreamingClient
from benchmarks.harness.report import Figure

BASE = "SmolLM2-135M-Instruct"
QUESTION = [{"role": "user", "content": "Tell me about lighthouses. " * 40}]

pytestmark = [pytest.mark.e2e, pytest.mark.untimed, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory, model_path: Path) -> list[Path]:
    """Folders of two contents of the same adapter."""
    roots = [tmp_path_factory.mktemp(f"seed-{seed}") for seed in (5, 6)]
    for seed, root in zip((5, 6), roots, strict=True):
        write_untrained_adapters(root, model_path, seed, ["safety"])
    return [root / "safety" for root in roots]


@pytest.fixture(scope="module")
def fleet(start: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("no-adapters")
    flags = ("--engine", "simulated", "--replicas", "2", "--gateways", "2", "--adapters-dir", str(folder))
    with (
        valkey_server() as server,
        start(*flags, "--redis-url", socket_url(server), own_state=True) as running,
    ):
        yield running


def test_the_benchmark_registers_versions_and_switches_an_alias_under_streams(fleet: Any, contents: list[Path]) -> None:
    async def measured() -> list[Figure]:
        async with AdapterFleet(fleet.url, {}, 2, "versioned") as adapters:
            figures = await VersionsBench(adapters, contents, lambda text: None).run()
        async with AdapterFleet(fleet.url, {}, 2, "switched") as adapters:
            versions = [await adapters.register(content) for content in contents]
            bench = SwitchBench(
                adapters,
                AsyncStreamingClient(fleet.url),
                versions,
                streams=4,
                switches=2,
                every_s=0.5,
                seed=3,
                progress=lambda text: None,
            )
            return figures + await bench.run()

    found = {figure.name: figure for figure in asyncio.run(measured())}
    assert all(figure.value > 0 for name, figure in found.items() if "registered under an alias" in name), found
    assert found["calls answered"].value >= 4
    assert found["switches"].value == 2
    assert found["calls failed"].value == found["answers mixed"].value == 0


def test_adapters_by_command_line_and_by_vllms_api(
    fleet: Any, contents: list[Path], command: Callable[..., Any]
) -> None:
    """Two gateways and two replicas; what one gateway did the others know."""

    def adapters(*words: str) -> Any:
        return json.loads(command("adapters", *words, "--url", fleet.url, "--json").stdout)

    first = adapters("add", "safety", str(contents[0]))["entry"]["id"]
    fleet.wait_until(lambda: all(served(fleet, "safety") for _ in range(8)), 120, "both gateways to serve it")
    old = fleet.chat("safety", QUESTION, 24)
    adapters("alias", "safety@prod", first)
    second = adapters("add", "safety", str(contents[1]))["entry"]["id"]
    fleet.wait_until(lambda: all(root(fleet, "safety@prod") == first for _ in range(8)), 120, "the alias everywhere")
    assert fleet.chat("safety@prod", QUESTION, 24).text == fleet.chat(first, QUESTION, 24).text == old.text
    assert fleet.chat(second, QUESTION, 24).text != old.text

    # What is in the store alone is served.
    shutil.rmtree(contents[0])
    assert fleet.chat(first, QUESTION, 24).text == old.text
    fleet.wait_until(lambda: any(entry["loaded"] for entry in adapters("ls")), 120, "the list to say where one is")

    body = {"lora_name": "loaded", "lora_path": str(contents[1])}
    assert fleet.http.post("/v1/load_lora_adapter", json=body).text.startswith("Success")
    fleet.wait_until(lambda: all(served(fleet, "loaded") for _ in range(8)), 120, "both gateways to serve it")
    # One content under two names: two adapters.
    assert fleet.chat("loaded", QUESTION, 24).text
    assert fleet.http.post("/v1/unload_lora_adapter", json={"lora_name": "loaded"}).status_code == 200

    adapters("retire", "safety")
    fleet.wait_until(lambda: not any(served(fleet, "safety") for _ in range(8)), 120, "no gateway to take its calls")
    with pytest.raises(openai.NotFoundError, match="retired"):
        fleet.chat("safety", QUESTION, 24)
    assert adapters("rm", "safety")["versions"] == []


def test_one_command_registers_an_adapter_and_calls_it(
    fleet: Any, contents: list[Path], command: Callable[..., Any], tmp_path: Path
) -> None:
    added = command("adapters", "add", "asked", str(contents[1]), "--call", "Is it safe?", "--url", fleet.url)
    assert added.returncode == 0, added.stderr
    registered, *_, said, value, reused = added.stdout.splitlines()[1:]
    assert registered.startswith("registered asked@")
    assert said.startswith("asked@")
    assert value.startswith(("value true, probability ", "value false, probability "))
    assert reused.endswith(" prompt tokens reused")
    conversation = tmp_path / "conversation.json"
    conversation.write_text(json.dumps({"messages": QUESTION, "documents": [{"text": "The lamp is red. " * 9}]}))
    asked = command("adapters", "call", "asked", f"@{conversation}", "--url", fleet.url, "--json")
    assert json.loads(asked.stdout)["usage"]["prompt_tokens"] > 300, asked.stderr


def test_an_adapter_that_asks_nothing_is_called_as_a_chat(
    fleet: Any, contents: list[Path], command: Callable[..., Any], tmp_path: Path
) -> None:
    shutil.copytree(contents[1], tmp_path / "plain", ignore=shutil.ignore_patterns("aloraserve.json"))
    words = ("adapters", "add", "plain", str(tmp_path / "plain"), "--call", "Hello", "--url", fleet.url, "--json")
    called = json.loads(command(*words).stdout)["call"]
    assert called["text"]
    assert "value" not in called
    failed = command("adapters", "call", "nobody", "Hello", "--url", fleet.url)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "model 'nobody' is not served" in failed.stderr


def served(fleet: Any, name: str) -> bool:
    return bool(fleet.http.get(f"/v1/models/{name}").status_code == 200)


def root(fleet: Any, name: str) -> str:
    return str(fleet.http.get(f"/v1/models/{name}").json().get("root"))
