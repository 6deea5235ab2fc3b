"""``aloraserve.client`` against a gateway's two edges, and against servers that fail first."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from support.fake_engines import Engines
from support.fake_pool import ScriptedReplies
from support.http_server import serving

from aloraserve.adapters.catalog import EntryQuery
from aloraserve.client import AsyncClient, CallError, Client, Retries
from aloraserve.client.http_calls import _Events
from aloraserve.errors import (
    DeadlineError,
    IdempotencyConflictError,
    InvalidRequestError,
    OverloadedError,
    ReplicaLostError,
)
from aloraserve.serving.engine_messages import EngineCall, EngineChunk
from aloraserve.v1.chat_pb2 import ChatResponse
from aloraserve.wire import reply_for
from aloraserve_services.gateway.answers.events import without_odd_line_ends
from aloraserve_services.gateway.deployment import Gateway
from aloraserve_services.gateway.own_adapters import OwnAdapters
from aloraserve_services.grpc_server.limits import GrpcLimits
from aloraserve_services.grpc_server.server import GrpcServer
from aloraserve_services.grpc_server.status import DETAILS_KEY, status_of

KEY, ADMIN = "ada-key-0123456789", "admin-key-0123456789"
HI = [{"role": "user", "content": "hi"}]
REPLY = (EngineChunk(0, "a", 1, cached_tokens=1), EngineChunk(0, "b", 1, "stop"))
QUICK = Retries(attempts=3, first_s=0.001)
SCHEMES = pytest.mark.parametrize("scheme", ["http", "grpc"])


@pytest.fixture
def replies(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What engines answer next; without any each call gets :data:`REPLY`."""
    planned: list[Any] = []

    def dispatch(self: Engines, selection: Any, call: EngineCall) -> Any:
        return planned.pop(0) if planned else ScriptedReplies(REPLY)

    monkeypatch.setattr(Engines, "dispatch", dispatch)
    return planned


@contextlib.contextmanager
def loop_thread() -> Iterator[asyncio.AbstractEventLoop]:
    """Run an event loop in a thread: the client under test blocks this one."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        asyncio.run_coroutine_threadsafe(_end_all(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end_all() -> None:
    """End what a gateway began in this loop and follows for good."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


@pytest.fixture
def catalog(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the catalog's versions, of which a page has two."""
    names = [f"adapter-{number}" for number in range(5)]

    async def page(self: OwnAdapters, query: EntryQuery) -> dict[str, Any]:
        left = [name for name in names if name > query.cursor]
        return {"data": [{"name": name} for name in left[:2]], "next": left[1] if len(left) > 2 else ""}

    monkeypatch.setattr(OwnAdapters, "page", page)
    return names


@pytest.fixture
def urls(open_gateway: Callable[..., Gateway], replies: list[Any]) -> Iterator[dict[str, str]]:
    """Addresses of a gateway's edges, by scheme."""
    keys = {"api_keys": {"ada": SecretStr(KEY)}, "admin_keys": {"root": SecretStr(ADMIN)}}
    gateway = open_gateway(CollectorRegistry(), max_model_len=512, **keys)
    with loop_thread() as loop:
        ended, found = asyncio.Event(), dict[str, str]()
        started = threading.Event()

        async def serve() -> None:
            grpc_server = GrpcServer([gateway.grpc_edge()], GrpcLimits(1 << 20))
            async with serving(gateway.http_app()) as http_server:
                found["http"] = f"http://127.0.0.1:{http_server.port}"
                found["grpc"] = f"grpc://127.0.0.1:{await grpc_server.start('127.0.0.1', 0)}"
                started.set()
                await ended.wait()
                await grpc_server.close()

        running = asyncio.run_coroutine_threadsafe(serve(), loop)
        assert started.wait(10)
        yield found
        loop.call_soon_threadsafe(ended.set)
        running.result(10)


@SCHEMES
def test_every_call_is_the_same_over_both_transports(urls: dict[str, str], scheme: str) -> None:
    with Client(urls[scheme], KEY) as client:
        answer = client.chat("base", HI, temperature=0.0, max_tokens=4)
        assert (answer.text, answer.finish_reason, answer.cached_tokens) == ("ab", "stop", 1)
        assert answer.id.startswith("chatcmpl-")
        assert client.complete("base", [97, 98], max_tokens=3).text == "ab"
        assert client.complete("base", ["a", "b"], max_tokens=3).usage["completion_tokens"] == 4
        parts = list(client.stream_chat("base", HI))
        assert "".join(part.text for part in parts) == "ab"
        assert [part.finish_reason for part in parts if part.finish_reason] == ["stop"]
        assert (parts[-1].usage or {})["completion_tokens"] == 2
        assert "".join(part.text for part in client.stream_complete("base", "ab")) == "ab"
        [found] = client.intrinsics(HI, ["nobody"])
        assert (found["status"], found["error"]["code"]) == ("error", "model_not_found")


@SCHEMES
async def test_and_without_blocking(urls: dict[str, str], scheme: str) -> None:
    async with AsyncClient(urls[scheme], KEY) as client:
        assert (await client.chat("base", HI)).text == "ab"
        assert (await client.complete("base", "ab")).text == "ab"
        assert "".join([part.text async for part in client.stream_chat("base", HI)]) == "ab"
        assert len(await client.intrinsics(HI, ["nobody", {"name": "other"}])) == 2
        with pytest.raises(CallError, match="role"):
            await client.adapters()


@SCHEMES
async def test_all_pages_of_adapters_are_read(urls: dict[str, str], catalog: list[str], scheme: str) -> None:
    async with AsyncClient(urls[scheme], ADMIN) as client:
        assert [adapter["name"] for adapter in await client.adapters()] == catalog
    with Client(urls[scheme], ADMIN) as blocking:
        assert [adapter["name"] for adapter in blocking.adapters()] == catalog


@SCHEMES
def test_errors_say_the_same_over_both_transports(urls: dict[str, str], scheme: str) -> None:
    with Client(urls[scheme], KEY, retries=QUICK) as client:
        with pytest.raises(CallError) as refused:
            client.chat("base", HI, temperature=9.0)
        assert (refused.value.status, refused.value.param) == (400, "temperature")
        with pytest.raises(CallError) as refused:
            list(client.stream_chat("nobody", HI))
        assert (refused.value.status, refused.value.code, refused.value.is_retried) == (404, "model_not_found", False)
    with Client(urls[scheme], "another-key-0123456789") as client, pytest.raises(CallError) as refused:
        client.chat("base", HI)
    assert (refused.value.status, refused.value.code) == (401, "invalid_api_key")


@SCHEMES
def test_a_stream_that_has_begun_is_not_made_again(urls: dict[str, str], replies: list[Any], scheme: str) -> None:
    replies.append(ScriptedReplies([EngineChunk(0, "a", 1), ReplicaLostError("the replica was lost")]))
    with Client(urls[scheme], KEY, retries=QUICK) as client:
        said = client.stream_chat("base", HI)
        with pytest.raises(CallError, match="lost") as cut:
            for _ in said:
                pass
    assert cut.value.code == "replica_lost"
    assert replies == []


@SCHEMES
def test_odd_ends_of_lines_in_a_text_are_text(urls: dict[str, str], replies: list[Any], scheme: str) -> None:
    """U+0085, U+2028 and U+2029 end a line for ``str.splitlines``, and so for many readers of events."""
    replies.append(ScriptedReplies([EngineChunk(0, "a\u2028b", 1), EngineChunk(0, "\x85c\u2029", 1, "stop")]))
    with Client(urls[scheme], KEY) as client:
        assert "".join(part.text for part in client.stream_chat("base", HI)) == "a\u2028b\x85c\u2029"


def test_events_have_them_escaped_and_the_client_needs_no_escapes() -> None:
    raw = 'data: {"text": "a\u2028b\x85c\u2029"}\n\n'.encode()
    assert len(without_odd_line_ends(raw).decode().splitlines()) == 2
    for events in (raw, without_odd_line_ends(raw)):
        reader = _Events()
        parts = [part for piece in (events[:20], events[20:]) for part in reader.read(piece)]
        assert parts == [{"text": "a\u2028b\x85c\u2029"}]


@pytest.mark.parametrize(
    ("error", "status", "is_retried"),
    [
        (InvalidRequestError("no"), 400, False),
        (OverloadedError("full"), 503, True),
        (ReplicaLostError("lost"), 502, True),
        (DeadlineError("late"), 502, False),
    ],
)
def test_an_error_within_a_stream_is_retried_only_where_that_may_help(
    error: Exception, status: int, is_retried: bool
) -> None:
    event = f"data: {json.dumps(reply_for(error).body)}\n\n".encode()
    with pytest.raises(CallError) as raised:
        list(_Events().read(event))
    assert (raised.value.status, raised.value.is_retried) == (status, is_retried)


class Failing:
    """Fails calls as planned, then answers; notes when each came and under which key."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.keys: list[str | None] = []


@contextlib.contextmanager
def failing_http(failing: Failing) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            failing.keys.append(self.headers.get("idempotency-key"))
            self.rfile.read(int(self.headers["content-length"]))
            body, status, headers = {"choices": [{"message": {"content": "yes"}}]}, 200, dict[str, str]()
            if failing.failures:
                reply = reply_for(failing.failures.pop(0))
                body, status, headers = reply.body, reply.status, reply.headers
            raw = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(raw))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@contextlib.contextmanager
def failing_grpc(failing: Failing) -> Iterator[str]:
    class Handler(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(self._answer)

        async def _answer(self, message: bytes, context: Any) -> bytes:
            failing.keys.append(dict(context.invocation_metadata()).get("idempotency-key"))
            if failing.failures:
                status = status_of(reply_for(failing.failures.pop(0)))
                await context.abort(status.code, status.message, ((DETAILS_KEY, status.details),))
            return ChatResponse(choices=[{"message": {"content": "yes"}}]).SerializeToString()  # type: ignore[list-item]

    with loop_thread() as loop:

        async def start() -> tuple[GrpcServer, int]:
            server = GrpcServer([Handler()], GrpcLimits(1 << 20))
            return server, await server.start("127.0.0.1", 0)

        server, port = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
        yield f"grpc://127.0.0.1:{port}"
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(10)


FAILING = pytest.mark.parametrize("serve", [failing_http, failing_grpc])


@FAILING
@pytest.mark.parametrize("error", [OverloadedError("full"), IdempotencyConflictError("it is being answered")])
def test_what_may_succeed_later_is_tried_again_when_the_platform_says(
    serve: Any, monkeypatch: Any, error: Exception
) -> None:
    paused: list[float] = []
    monkeypatch.setattr("aloraserve.client.blocking.time.sleep", paused.append)
    failing = Failing(error, ReplicaLostError("lost"))
    with serve(failing) as url, Client(url, retries=QUICK) as client:
        assert client.chat("base", HI).text == "yes"
    # Retry-After and RetryInfo are a second; the other one has its own pause.
    assert paused[0] == 1.0
    assert paused[1] < 0.1
    assert len(failing.keys) == 3
    [key] = set(failing.keys)
    assert key, "a call that is made again costs one answer"


@FAILING
def test_attempts_are_bounded_and_a_pause_that_is_too_long_is_not_made(serve: Any) -> None:
    failing = Failing(*(ReplicaLostError("lost") for _ in range(9)))
    with serve(failing) as url:
        with Client(url, retries=QUICK) as client, pytest.raises(CallError, match="lost"):
            client.chat("base", HI)
        assert len(failing.keys) == 3
        failing.failures[:] = [OverloadedError("full")]
        with Client(url, retries=Retries(longest_s=0.5)) as client, pytest.raises(CallError, match="full"):
            client.chat("base", HI)


def test_nobody_there_is_an_error_that_is_tried_again() -> None:
    for scheme in ("http", "grpc"):
        with Client(f"{scheme}://127.0.0.1:1", retries=QUICK) as client, pytest.raises(CallError) as failed:
            client.chat("base", HI)
        assert failed.value.is_retried


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://a", "http://", "grpc://a/b"])
def test_a_url_is_checked_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="url is"):
        Client(url)


def test_a_client_of_http_does_not_import_grpc() -> None:
    lines = (
        "import sys",
        "from aloraserve.client import Client",
        "Client('http://a:1')",
        "assert 'grpc' not in sys.modules",
    )
    subprocess.run([sys.executable, "-c", ";".join(lines)], check=True)
