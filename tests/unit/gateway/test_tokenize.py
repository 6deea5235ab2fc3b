"""Tokens of a prompt are those that the engine gets for the same call; probes answer as vLLM's do."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from support.character_tokenizer import BEGIN, VOCABULARY, CharacterTokenizer
from support.fake_engines import ANSWER, Engines
from support.fake_pool import ScriptedReplies

from aloraserve.serving.engine_messages import EngineCall
from aloraserve_services.gateway.deployment import ENGINE, Gateway
from aloraserve_services.gateway.known_replicas import note_replicas

HELLO = [{"role": "system", "content": "s"}, {"role": "user", "content": "hi <s>"}]
KEY = "tenant-key-0123456789"
asked_by = ContextVar[str]("asked_by")
Open = Callable[..., httpx.AsyncClient]


@pytest.fixture
def client(open_gateway: Callable[..., Gateway]) -> Open:
    def opened(**settings: Any) -> httpx.AsyncClient:
        app = open_gateway(CollectorRegistry(), **settings).http_app()
        return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")

    return opened


@pytest.mark.parametrize(
    "body",
    [
        {"messages": HELLO},
        {"messages": HELLO, "chat_template_kwargs": {"style": "terse"}},
        {"messages": HELLO, "model": "safety"},
        {"messages": HELLO, "model": "plain"},
        {"messages": HELLO, "model": "base", "chat_template_kwargs": {"adapter_name": "uncertain"}},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]},
        {"prompt": "a text"},
        {"prompt": "a text", "model": "safety"},
        {"prompt": "a text <s> in it", "model": "safety"},
    ],
)
async def test_the_tokens_are_those_that_the_engine_gets(
    client: Open, monkeypatch: pytest.MonkeyPatch, body: dict[str, Any]
) -> None:
    calls: list[EngineCall] = []

    def dispatch(self: Engines, selection: Any, call: EngineCall) -> ScriptedReplies:
        calls.append(call)
        return ScriptedReplies(ANSWER)

    monkeypatch.setattr(Engines, "dispatch", dispatch)
    async with client() as one:
        found = (await one.post("/tokenize", json=body)).json()
        path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
        answer = await one.post(path, json={"model": "base", "max_tokens": 1} | body)
        assert answer.status_code == 200, answer.text
    assert found == {
        "count": len(found["tokens"]),
        "max_model_len": 64,
        "tokens": calls[0].token_ids,
        "token_strs": None,
    }


async def test_texts_of_tokens_are_there_if_they_are_asked_for_and_the_tokens_read_as_the_prompt(client: Open) -> None:
    async with client() as one:
        found = (await one.post("/tokenize", json={"prompt": "abc", "return_token_strs": True})).json()
        assert found["token_strs"] == [chr(BEGIN), "a", "b", "c"]
        plain = (await one.post("/tokenize", json={"prompt": "abc", "add_special_tokens": False})).json()
        assert plain["tokens"] == list(map(ord, "abc"))
        assert (await one.post("/detokenize", json={"tokens": plain["tokens"]})).json() == {"prompt": "abc"}
        assert (await one.post("/detokenize", json={"tokens": []})).json() == {"prompt": ""}


async def test_a_prompt_that_the_context_has_no_room_for_is_counted(client: Open) -> None:
    async with client() as one:
        found = (await one.post("/tokenize", json={"prompt": "x" * 1000})).json()
        assert (found["count"], found["max_model_len"]) == (1001, 64)
        assert (await one.post("/v1/completions", json={"model": "base", "prompt": "x" * 1000})).status_code == 400


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/tokenize", {}, 400, "one of 'messages' and 'prompt'"),
        ("/tokenize", {"messages": HELLO, "prompt": "x"}, 400, "one of 'messages' and 'prompt'"),
        ("/tokenize", {"prompt": ""}, 400, "prompt"),
        ("/tokenize", {"prompt": [1]}, 400, "prompt"),
        ("/tokenize", {"messages": HELLO, "add_special_tokens": True}, 400, "with 'prompt' only"),
        ("/tokenize", {"messages": HELLO, "model": "nobody"}, 404, "nobody"),
        ("/detokenize", {"tokens": [VOCABULARY]}, 400, f"tokens has token id {VOCABULARY}"),
        ("/detokenize", {"tokens": [-1]}, 400, "tokens"),
        ("/detokenize", {"tokens": ["a"]}, 400, "tokens"),
        ("/detokenize", {"tokens": [1], "model": "nobody"}, 404, "nobody"),
        ("/detokenize", {}, 400, "tokens"),
    ],
)
async def test_a_body_that_is_wrong_is_refused_as_a_call_s_is(
    client: Open, path: str, body: dict[str, Any], status: int, said: str
) -> None:
    async with client() as one:
        answer = await one.post(path, json=body)
    assert answer.status_code == status, answer.text
    assert said in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {"prompt": "x" * 5000}),
        ("/tokenize", {"prompt": "x" * 5000, "return_token_strs": True}),
        ("/tokenize", {"prompt": "x" * 5000, "add_special_tokens": False}),
        ("/detokenize", {"tokens": [97] * 5000}),
    ],
)
async def test_a_tenant_s_long_prompts_take_a_bounded_part_of_the_threads(
    client: Open, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any]
) -> None:
    """Two at a time; others' are not behind them, and none has the event loop."""
    most, now, loop_thread = [0], Counter[str](), threading.get_ident()
    free = threading.Event()
    to_thread = asyncio.to_thread

    async def counted(work: Callable[..., Any], *arguments: Any) -> Any:
        tenant = asked_by.get()
        now[tenant] += 1
        most[0] = max(most[0], now[tenant])
        if tenant == "acme":
            await to_thread(free.wait, 10)
        try:
            return await to_thread(work, *arguments)
        finally:
            now[tenant] -= 1

    texts = CharacterTokenizer.convert_ids_to_tokens

    def in_thread(self: CharacterTokenizer, ids: Any) -> Any:
        assert threading.get_ident() != loop_thread
        return texts(self, ids)

    monkeypatch.setattr(asyncio, "to_thread", counted)
    monkeypatch.setattr(CharacterTokenizer, "convert_ids_to_tokens", in_thread)
    keys = {name: SecretStr(f"{name}-key-0123456789") for name in ("acme", "globex")}
    async with client(api_keys=keys) as one:

        async def ask(tenant: str, last: str) -> int:
            asked_by.set(tenant)
            own = {"prompt": body["prompt"] + last} if "prompt" in body else {}
            headers = {"Authorization": f"Bearer {tenant}-key-0123456789"}
            return (await one.post(path, json=body | own, headers=headers)).status_code

        asked = [asyncio.create_task(ask("acme", str(number))) for number in range(70)]
        refused, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        assert {task.result() for task in refused} == {429}
        assert await ask("globex", "o") == 200
        free.set()
        assert sorted([await task for task in asked]) == [200] * 64 + [429] * 6
    assert most == [2]


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
async def test_tokens_need_a_key_where_calls_do(client: Open, path: str) -> None:
    async with client(api_keys={"acme": SecretStr(KEY)}) as one:
        assert (await one.post(path, json={"prompt": "x"})).status_code == 401


async def test_probes_answer_as_vllm_s_do(client: Open) -> None:
    async with client(api_keys={"acme": SecretStr(KEY)}) as one:
        for method, path in (("GET", "/health"), ("GET", "/ping"), ("POST", "/ping"), ("HEAD", "/health")):
            answer = await one.request(method, path)
            assert (answer.status_code, answer.content) == (200, b"")
        note_replicas(ENGINE, "test", [])
        assert (await one.get("/health")).status_code == 503


@pytest.mark.parametrize(
    ("path", "allowed"), [("/tokenize", "POST"), ("/health", "GET, HEAD"), ("/ping", "GET, HEAD, POST")]
)
async def test_another_method_is_told_which_are_allowed(client: Open, path: str, allowed: str) -> None:
    async with client() as one:
        answer = await one.put(path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
        assert (await one.get(f"{path}/")).status_code == 404
