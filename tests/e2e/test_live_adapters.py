"""Adapters that are added, changed, broken and removed while the platform serves: no restart."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from support.own_valkey import socket_url, valkey_server
from support.self_invoked import ask_auto, put_invoked_by

from aloraserve.engine_model.calibration import load
from aloraserve_services.models.untrained import write_untrained_adapters

BASE = "SmolLM2-135M-Instruct"
NAME = "safety-lora"
ALORA = "safety"
QUESTION = [{"role": "user", "content": "Tell me about lighthouses. " * 40}]
REPLICAS = 2

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory, model_path: Path) -> list[Path]:
    """Folders with two contents of the same adapters."""
    roots = [tmp_path_factory.mktemp(f"seed-{seed}") for seed in (3, 4)]
    for seed, root in zip((3, 4), roots, strict=True):
        write_untrained_adapters(root, model_path, seed, [ALORA])
    return roots


def put(content: Path, root: Path, name: str, served: str | None = None) -> None:
    """Copy an adapter beside its place and rename it there, as an operator should."""
    staged = root / f".{served or name}"
    shutil.copytree(content / name, staged)
    shutil.rmtree(root / (served or name), ignore_errors=True)
    staged.rename(root / (served or name))


def models(fleet: Any) -> list[str]:
    return [entry["id"] for entry in fleet.http.get("/v1/models").json()["data"]]


def digest(fleet: Any, name: str) -> str | None:
    return next((one["digest"] for one in fleet.replicas()["adapters"] if one["name"] == name), None)


def refused(fleet: Any) -> dict[str, str]:
    return {one["name"]: one["reason"] for one in fleet.replicas()["refused"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("live-adapters")


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with engines that run two adapters at once, and keep as many loaded."""
    peers = load("live-peers")
    few = peers.model_copy(update={"adapters": peers.adapters.model_copy(update={"slots": 2, "resident": 2})})
    file = tmp_path_factory.mktemp("calibration") / "two-adapters.json"
    file.write_text(few.model_dump_json())
    return file


@pytest.fixture(scope="module")
def fleet(start: Callable[..., Any], folder: Path, calibration: Path) -> Iterator[Any]:
    flags = (
        "--engine",
        "simulated",
        "--calibration",
        str(calibration),
        "--replicas",
        str(REPLICAS),
        "--adapters-dir",
        str(folder),
        "--policy",
        "round-robin",
    )
    with (
        valkey_server() as server,
        start(*flags, "--redis-url", socket_url(server), own_state=True) as running,
    ):
        yield running


@pytest.mark.untimed
def test_an_adapter_lives_while_a_simulated_fleet_runs(
    fleet: Any, folder: Path, contents: list[Path], command: Callable[..., Any]
) -> None:
    """Two simulated replicas behind one gateway, each with a registry of its own, from an empty folder on."""
    assert models(fleet) == [BASE]
    with pytest.raises(openai.NotFoundError, match=f"model '{NAME}' is not served; served are {BASE}"):
        fleet.chat(NAME, QUESTION)

    put(contents[0], folder, NAME)
    put(contents[0], folder, ALORA)
    fleet.wait_until(lambda: models(fleet) == [BASE, ALORA, NAME], 120, "the added adapters to be served")
    first = digest(fleet, NAME)
    # Each replica in turn: each has to have the version, noticed or looked for.
    answers = [fleet.chat(NAME, [{"role": "user", "content": f"{n}: {QUESTION[0]['content']}"}]) for n in range(6)]
    assert len({answer.replica for answer in answers}) == REPLICAS
    old = fleet.chat(NAME, QUESTION, 24)
    fleet.settle()
    assert [fleet.chat(NAME, QUESTION, 24) for _ in range(REPLICAS)][-1].cached_tokens > 0
    assert "safety" in command("status", "--url", fleet.url).stdout

    stream = fleet.openai.chat.completions.create(
        model=NAME, messages=QUESTION, max_tokens=400, temperature=0, stream=True
    )
    next(iter(stream))
    put(contents[1], folder, NAME)
    fleet.wait_until(lambda: digest(fleet, NAME) not in (None, first), 120, "the changed adapter to be served")
    new = fleet.chat(NAME, QUESTION, 24)
    assert new.text != old.text
    assert new.cached_tokens == 0, "nothing of what the former version computed"
    assert [chunk.choices[0].finish_reason for chunk in stream if chunk.choices][-1] in ("length", "stop")

    (folder / NAME / "adapter_model.safetensors").write_bytes(b"broken")
    why = "is not a safetensors file"
    # Half written it is refused for something else, for a moment.
    fleet.wait_until(lambda: why in refused(fleet).get(NAME, ""), 120, "the broken adapter to be refused")
    assert models(fleet) == [BASE, ALORA]
    with pytest.raises(openai.NotFoundError, match="is not served"):
        fleet.chat(NAME, QUESTION)
    shown = json.loads(command("status", "--url", fleet.url, "--json").stdout)
    assert [one["name"] for one in shown["refused"]] == [NAME]
    assert fleet.chat(ALORA, QUESTION).text, "one bad adapter hides no other"

    shutil.rmtree(folder / NAME)
    shutil.rmtree(folder / ALORA)
    fleet.wait_until(lambda: models(fleet) == [BASE] and not refused(fleet), 120, "the removed adapters to be gone")
    with pytest.raises(openai.NotFoundError, match=f"model '{ALORA}' is not served"):
        fleet.chat(ALORA, QUESTION)
    assert fleet.chat(BASE, QUESTION).text


@pytest.mark.untimed
def test_a_simulated_answer_invokes_an_adapter(fleet: Any, folder: Path, contents: list[Path]) -> None:
    """The simulated base model answers each prompt in its own way, so its answer's words can be the invocation."""
    name, added, most = "self-invoked", 5, 40
    alone = fleet.chat(BASE, QUESTION, 12)
    said = fleet.tokenizer(alone.text, add_special_tokens=False)["input_ids"]
    put_invoked_by(contents[0] / ALORA, folder, name, said[6:9], max_tokens=added)
    try:
        fleet.wait_until(lambda: name in models(fleet), 120, "the added adapter to be served")
        fleet.settle()
        answer = ask_auto(fleet.http, BASE, QUESTION, most)
        words = answer["choices"][0]["message"]["content"].split()
        assert words[:9] == alone.text.split()[:9]
        assert (len(words), answer["usage"]["completion_tokens"]) == (most, most)
        request_id = answer["id"].removeprefix("chatcmpl-")
        parts = [fleet.http.get(f"/v1/receipts/{request_id}{end}").json() for end in ("", "-1", "-2")]
        assert [part["adapter"] for part in parts] == [None, name, None]
        assert [part["prompt_tokens"] - parts[0]["prompt_tokens"] for part in parts] == [0, 9, 9 + added]
    finally:
        shutil.rmtree(folder / name)
        fleet.wait_until(lambda: name not in models(fleet), 120, "the removed adapter to be gone")


@pytest.mark.untimed
def test_an_adapter_that_is_damaged_where_it_is_stored_fails_alone(
    fleet: Any, folder: Path, contents: list[Path], command: Callable[..., Any]
) -> None:
    """It is not loaded when that happens: engines have room for two, and two others came first."""
    put(contents[0], folder, NAME)
    put(contents[0], folder, ALORA)
    fleet.wait_until(lambda: models(fleet) == [BASE, ALORA, NAME], 120, "the added adapters to be served")
    fleet.wait_until(lambda: all(places(fleet, name) == REPLICAS for name in (ALORA, NAME)), 120, "both to be loaded")
    put(contents[1], folder, NAME, "damaged")
    fleet.wait_until(lambda: "damaged" in models(fleet), 120, "the third one to be served")
    assert places(fleet, "damaged") == 0
    assert "none (cold)" in command("status", "--url", fleet.url).stdout
    weights = fleet.state_dir / "adapter-snapshots" / str(digest(fleet, "damaged")) / "adapter_model.safetensors"
    weights.chmod(0o644)
    with weights.open("r+b") as file:
        file.truncate(file.seek(0, 2) - 4)
    for _ in range(REPLICAS):
        with pytest.raises(openai.InternalServerError, match="adapter 'damaged' cannot be loaded") as caught:
            fleet.chat("damaged", QUESTION)
        assert (caught.value.status_code, caught.value.code) == (503, "adapter_not_loaded")
        assert str(fleet.state_dir) not in str(caught.value)
    answers = [fleet.chat(name, QUESTION) for name in (NAME, ALORA, BASE) for _ in range(REPLICAS)]
    assert all(answer.text for answer in answers)
    assert len(fleet.replicas()["replicas"]) == REPLICAS, "no engine ended"


def places(fleet: Any, name: str) -> int:
    """Return how many replicas have an adapter loaded."""
    return next((len(one["loaded"]) for one in fleet.replicas()["adapters"] if one["name"] == name), 0)


def test_real_engines_answer_with_the_weights_that_are_there(
    platform: Any, adapters_dir: Path, contents: list[Path]
) -> None:
    name = "live-lora"
    prompt = platform.prompt(QUESTION)
    try:
        put(contents[0], adapters_dir, NAME, name)
        platform.wait_until(lambda: digest(platform, name) is not None, 120, "the added adapter to be served")
        first, old = digest(platform, name), platform.complete(name, prompt, 8)
        platform.settle()
        again = platform.complete(name, prompt, 8)
        assert again.cached_tokens > 0
        assert again.logprobs == pytest.approx(old.logprobs, abs=1e-4)

        put(contents[1], adapters_dir, NAME, name)
        platform.wait_until(lambda: digest(platform, name) not in (None, first), 120, "the changed one to be served")
        new = platform.complete(name, prompt, 8)
        assert new.cached_tokens == 0
        assert new.logprobs != pytest.approx(old.logprobs, abs=1e-3)

        put(contents[0], adapters_dir, NAME, name)
        platform.wait_until(lambda: digest(platform, name) == first, 120, "the former one to be served again")
        assert platform.complete(name, prompt, 8).logprobs == pytest.approx(old.logprobs, abs=1e-4)
    finally:
        shutil.rmtree(adapters_dir / name, ignore_errors=True)
        platform.wait_until(lambda: name not in models(platform), 120, "the removed adapter to be gone")
