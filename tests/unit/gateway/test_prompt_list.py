"""Several prompts in one request: each its own call, one answer, and no call left over when one fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from support.fake_engines import Engines
from support.fake_pool import ScriptedReplies

from aloraserve.serving.engine_messages import EngineCall, EngineChunk, EngineRefusal
from aloraserve_services.gateway.deployment import Gateway
from aloraserve_services.gateway.prompt_list import merged


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[EngineCall]:
    """Return the calls that reach engines, which echo their prompts; "!" is refused."""
    seen: list[EngineCall] = []

    def dispatch(self: Engines, selection: Any, call: EngineCall) -> ScriptedReplies:
        seen.append(call)
        text = "".join(map(chr, call.token_ids[1:]))
        if text == "!":
            return ScriptedReplies([EngineRefusal("no", "prompt")])
        choices = range(call.sampling.n)
        begun = [EngineChunk(index, text, 1, cached_tokens=8) for index in choices]
        return ScriptedReplies([*begun, *(EngineChunk(index, f"{index}", 1, "stop") for index in choices)])

    monkeypatch.setattr(Engines, "dispatch", dispatch)
    return seen


@pytest.fixture
def client(open_gateway: Callable[..., Gateway]) -> httpx.AsyncClient:
    app = open_gateway(CollectorRegistry()).http_app()
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")


async def complete(client: httpx.AsyncClient, *prompts: Any, **fields: Any) -> httpx.Response:
    body = {"model": "base", "prompt": list(prompts), "max_tokens": 2} | fields
    return await client.post("/v1/completions", json=body, headers={"x-request-id": "r1"})


async def test_each_prompt_is_a_call_and_its_choices_follow_those_before(
    client: httpx.AsyncClient, calls: list[EngineCall]
) -> None:
    answer = (await complete(client, "a", "bc", n=2, temperature=1)).json()
    assert answer["id"] == "cmpl-r1"
    assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [
        (0, "a0"), (1, "a1"), (2, "bc0"), (3, "bc1"),
    ]  # fmt: skip
    assert [call.request_id.rpartition("-")[0] for call in calls] == ["r1", "r1-1"]
    assert answer["usage"] == {
        "prompt_tokens": 2 + 3,
        "completion_tokens": 8,
        "total_tokens": 13,
        "prompt_tokens_details": {"cached_tokens": 16},
    }


async def test_a_stream_of_several_prompts_adds_up_to_the_whole(
    client: httpx.AsyncClient, calls: list[EngineCall]
) -> None:
    streamed = await complete(client, "a", "bc", stream=True, stream_options={"include_usage": True})
    events = [line.removeprefix("data: ") for line in streamed.text.split("\n") if line]
    assert events.pop() == "[DONE]"
    parsed = [json.loads(event) for event in events]
    assert parsed.pop()["usage"]["total_tokens"] == 9
    texts: dict[int, str] = {}
    for choice in (event["choices"][0] for event in parsed):
        texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    assert texts == {0: "a0", 1: "bc0"}


async def test_a_prompt_that_fails_fails_the_request_and_ends_the_others(
    client: httpx.AsyncClient, calls: list[EngineCall]
) -> None:
    answer = await complete(client, "a", "!", "b")
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "no")
    assert (await complete(client, "a", "b")).status_code == 200, "nothing is held on to"


async def test_chunks_come_as_they_are_ready_and_closing_ends_every_source() -> None:
    closed, gate = [], asyncio.Event()

    async def source(name: str, waits: Sequence[bool]) -> AsyncGenerator[EngineChunk]:
        try:
            for waiting in waits:
                if waiting:
                    await gate.wait()
                yield EngineChunk(0, name, 1)
        finally:
            closed.append(name)

    chunks = merged([source("slow", [True]), source("fast", [False, False, True])], 1)
    assert [(await anext(chunks)).index for _ in range(2)] == [1, 1]
    gate.set()
    assert {(await anext(chunks)).index for _ in range(2)} == {0, 1}
    await chunks.aclose()
    assert sorted(closed) == ["fast", "slow"]
