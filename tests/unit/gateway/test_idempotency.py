"""Requests that are sent again under one key cost one answer and get that one, from any gateway."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.responses import Response
from support.fake_engines import ANSWER, Engines
from support.fake_pool import ScriptedReplies
from support.http_server import serving

from aloraserve.errors import IdempotencyConflictError, IdempotencyKeyReusedError
from aloraserve_services.gateway import idempotency
from aloraserve_services.gateway.idempotency import IdempotentAnswers
from aloraserve_services.gateway.kept_answers import KeptAnswer, KeptAnswers

BODY = {"model": "base", "prompt": "hello"}
KEY = {"Idempotency-Key": "order-1"}

pytestmark = pytest.mark.timeout(60)


class CountedEngines:
    """Engines that count calls, hold them, or fail them, as the test says."""

    def __init__(self) -> None:
        self.calls = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.reached = asyncio.Event()
        self.replies: list[Any] = list(ANSWER)

    def dispatch(self, *_: Any) -> ScriptedReplies:
        self.calls += 1
        engines = self

        class Held(ScriptedReplies):
            async def __anext__(self) -> Any:
                engines.reached.set()
                await engines.gate.wait()
                return await super().__anext__()

        return Held(list(self.replies))


@pytest.fixture
async def engines(monkeypatch: pytest.MonkeyPatch) -> CountedEngines:
    counted = CountedEngines()
    monkeypatch.setattr(Engines, "dispatch", counted.dispatch)
    return counted


@pytest.fixture
def client(open_gateway: Callable[..., Any]) -> Callable[..., Any]:
    @asynccontextmanager
    async def opened(**settings: Any) -> AsyncIterator[httpx.AsyncClient]:
        async with (
            serving(open_gateway(**settings).http_app()) as server,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=30) as http,
        ):
            yield http

    return opened


async def test_a_request_sent_again_gets_the_same_answer_and_costs_nothing(
    client: Callable[..., Any], engines: CountedEngines
) -> None:
    async with client() as http:
        first = await http.post("/v1/completions", json=BODY, headers=KEY)
        again = await http.post("/v1/completions", content=json.dumps(BODY, indent=3), headers=KEY | JSON)
        assert (first.status_code, again.status_code) == (200, 200)
        assert again.content == first.content
        assert engines.calls == 1
        assert "idempotent-replayed" not in first.headers
        assert again.headers["idempotent-replayed"] == "true"
        assert again.headers["x-aloraserve-replica"] == first.headers["x-aloraserve-replica"]
        assert again.headers["x-request-id"] != first.headers["x-request-id"]
        await http.post("/v1/completions", json=BODY)
        assert engines.calls == 2, "without a key each is a request of its own"


JSON = {"Content-Type": "application/json"}


async def test_a_request_sent_again_while_the_first_runs_waits_for_its_answer(
    client: Callable[..., Any], engines: CountedEngines
) -> None:
    engines.gate.clear()
    async with client() as http:
        asked = [asyncio.create_task(http.post("/v1/completions", json=BODY, headers=KEY)) for _ in range(3)]
        await engines.reached.wait()
        engines.gate.set()
        contents = {(await answer).content for answer in asked}
        assert len(contents) == 1
        assert engines.calls == 1


async def test_a_key_stands_for_one_body(client: Callable[..., Any], engines: CountedEngines) -> None:
    async with client() as http:
        await http.post("/v1/completions", json=BODY, headers=KEY)
        other = await http.post("/v1/completions", json=BODY | {"prompt": "bye"}, headers=KEY)
        assert other.status_code == 422
        assert other.json()["error"]["code"] == "idempotency_key_reused"
        chat = {"model": "base", "messages": [{"role": "user", "content": "hello"}]}
        assert (await http.post("/v1/chat/completions", json=chat, headers=KEY)).status_code == 200


async def test_a_tenant_s_keys_are_its_own(client: Callable[..., Any], engines: CountedEngines) -> None:
    tenants = {"a": "a-secret-key-of-a", "b": "a-secret-key-of-b"}
    async with client(api_keys=tenants) as http:
        for secret in tenants.values():
            answer = await http.post("/v1/completions", json=BODY, headers=KEY | {"Authorization": f"Bearer {secret}"})
            assert "idempotent-replayed" not in answer.headers
        assert engines.calls == 2


async def test_an_error_is_not_kept(client: Callable[..., Any], engines: CountedEngines) -> None:
    engines.replies = [KeyError("ours")]
    async with client() as http:
        assert (await http.post("/v1/completions", json=BODY, headers=KEY)).status_code == 500
        engines.replies = list(ANSWER)
        assert (await http.post("/v1/completions", json=BODY, headers=KEY)).status_code == 200
        assert engines.calls == 2


async def test_where_the_first_client_has_gone_the_next_that_waits_goes_on(
    client: Callable[..., Any], engines: CountedEngines
) -> None:
    engines.gate.clear()
    async with client() as http:
        first = asyncio.create_task(http.post("/v1/completions", json=BODY, headers=KEY))
        await engines.reached.wait()
        second = asyncio.create_task(http.post("/v1/completions", json=BODY, headers=KEY))
        await asyncio.sleep(0.05)
        first.cancel()
        while engines.calls < 2:  # noqa: ASYNC110 - engines report to nobody
            await asyncio.sleep(0.005)
        engines.gate.set()
        assert (await second).status_code == 200


async def test_a_stream_with_a_key_is_refused(client: Callable[..., Any], engines: CountedEngines) -> None:
    async with client() as http:
        refused = await http.post("/v1/completions", json=BODY | {"stream": True}, headers=KEY)
        assert refused.status_code == 400
        assert "streamed answer cannot be given again" in refused.json()["error"]["message"]
        assert engines.calls == 0


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "\xe9"])
async def test_an_odd_key_is_refused(client: Callable[..., Any], engines: CountedEngines, key: str) -> None:
    async with client() as http:
        headers = [(b"idempotency-key", key.encode("latin-1"))]
        refused = await http.post("/v1/completions", json=BODY, headers=headers)
        assert refused.status_code == 400
        assert "1 to 255 printable ASCII characters" in refused.json()["error"]["message"]


def kept(size: int = 10) -> KeptAnswer:
    return KeptAnswer("digest", b"x" * size, {})


def test_kept_answers_are_few_small_and_not_for_long() -> None:
    now = 0.0
    answers = KeptAnswers(max_bytes=100, max_answers=5, kept_s=60, clock=lambda: now)
    for number in range(7):
        answers.put(f"n{number}", "a", kept())
    assert [answers.get(f"n{number}") is not None for number in range(7)] == [False] * 2 + [True] * 5
    answers.put("long", "a", kept(95))
    assert answers.get("long") is not None
    assert answers.get("n6") is None
    answers.put("too long", "a", kept(101))
    assert (answers.get("too long"), answers._bytes) == (None, 0)
    answers.put("old", "a", kept())
    now = 60.0
    assert (answers.get("old"), answers._bytes) == (None, 0)


@pytest.mark.parametrize("size", [1, 30])
def test_a_tenant_s_answers_displace_its_own_before_others(size: int) -> None:
    """Whether it is their number or their bytes that there is no more room for."""
    answers = KeptAnswers(max_bytes=100, max_answers=5)
    answers.put("other", "b", kept(size))
    for number in range(20):
        answers.put(f"n{number}", "a", kept(size))
    assert answers.get("other") is not None
    assert answers.get("n19") is not None


async def test_requests_that_wait_for_one_answer_are_bounded_by_tenant() -> None:
    alone, gate, begun = IdempotentAnswers(), asyncio.Event(), asyncio.Event()

    async def answer() -> Response:
        begun.set()
        await gate.wait()
        return Response("x")

    running = [asyncio.create_task(alone._once(name, "", "r", answer)) for name in ("a", "b")]
    await begun.wait()
    waiting = [asyncio.create_task(alone._once("a", "acme", "r", answer)) for _ in range(idempotency.MAX_WAITING)]
    while alone._waiting["acme"] < idempotency.MAX_WAITING:  # noqa: ASYNC110
        await asyncio.sleep(0)
    with pytest.raises(IdempotencyConflictError, match="retry later"):
        await alone._once("b", "acme", "r", answer)
    other = asyncio.create_task(alone._once("b", "globex", "r", answer))
    await asyncio.sleep(0)
    gate.set()
    assert {(await answered).body for answered in (*running, *waiting, other)} == {b"x"}
    assert alone._waiting == {}


class TwoGateways:
    """Gateways that ask each other as through Serve."""

    def __init__(self) -> None:
        self.both = [IdempotentAnswers(self.ask_all) for _ in range(2)]
        self.both.sort(key=lambda each: each._gateway)
        self.given = 0

    async def ask_all(self, method: str, name: Any) -> list[Any]:
        assert method == "own_answer"
        await asyncio.sleep(0)
        return [each.own(name) for each in self.both]

    async def once(self, gateway: int, request: str = "r", gate: asyncio.Event | None = None) -> Response:
        async def answer() -> Response:
            self.given += 1
            if gate is not None:
                await gate.wait()
            return Response(f"answer {self.given}", headers={"x-aloraserve-replica": "a"})

        return await self.both[gateway]._once("name", "", request, answer)


async def test_another_gateway_gives_the_answer_that_one_gave() -> None:
    two = TwoGateways()
    first, again = await two.once(0), await two.once(1)
    assert (again.body, again.headers["idempotent-replayed"]) == (first.body, "true")
    assert again.headers["x-aloraserve-replica"] == "a"
    assert two.given == 1
    with pytest.raises(IdempotencyKeyReusedError):
        await two.once(1, "other")


async def test_a_request_that_another_gateway_is_answering_is_a_conflict() -> None:
    two, gate = TwoGateways(), asyncio.Event()
    running = asyncio.create_task(two.once(1, gate=gate))
    while not two.given:  # noqa: ASYNC110
        await asyncio.sleep(0)
    with pytest.raises(IdempotencyConflictError):
        await two.once(0)
    gate.set()
    assert (await running).body == (await two.once(0)).body


async def test_of_two_gateways_that_get_a_request_at_once_one_answers() -> None:
    two, gate = TwoGateways(), asyncio.Event()
    first, second = asyncio.create_task(two.once(0, gate=gate)), asyncio.create_task(two.once(1, gate=gate))
    with pytest.raises(IdempotencyConflictError):
        await second
    gate.set()
    assert (await first).body == b"answer 1"


async def test_a_gateway_that_does_not_answer_is_not_waited_for() -> None:
    async def nobody(method: str, name: Any) -> list[Any]:
        return []

    alone = IdempotentAnswers(nobody)

    async def answer() -> Response:
        return Response("x")

    assert (await alone._once("name", "", "r", answer)).status_code == 200
