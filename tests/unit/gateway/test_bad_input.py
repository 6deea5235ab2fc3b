"""Headers and bodies of any bytes, at every route: a clear 4xx in OpenAI's form, and nothing else."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from starlette.requests import Request
from support.http_server import Served, serving

pytestmark = pytest.mark.timeout(120)
Route = tuple[str, str]
KEYS = {"api_keys": {"acme": "a-tenant-s-key-0001"}, "admin_keys": {"root": "an-admin-s-key-00001"}}
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhY21lIn0.c2lnbmF0dXJl"
HELLO = {"model": "base", "messages": [{"role": "user", "content": "hi"}], "prompt": "hi"}
UNREACHABLE = 503
"""What a route answers that needs the directory, which is not there."""


class Recorder:
    """Takes routes as an application does, and keeps which there are."""

    def __init__(self) -> None:
        self.routes: list[Route] = []

    def add(self, method: str, path: str, handler: Callable[[Request], Any], *, is_call: bool = False) -> None:
        """Note a route."""
        self.routes.append((method, path.replace("{}", "some").replace("{name}", "some")))


@pytest.fixture
def gateway(open_gateway: Callable[..., Any]) -> Any:
    return open_gateway()


@pytest.fixture
def routes(gateway: Any) -> list[Route]:
    recorder: Any = Recorder()
    for part in gateway._http_parts():
        part.add_to(recorder)
    assert ("POST", "/v1/chat/completions") in recorder.routes
    return list(recorder.routes)


@pytest.fixture
async def server(gateway: Any) -> AsyncIterator[Served]:
    async with serving(gateway.http_app()) as served:
        yield served


def request(route: Route, body: bytes = b"", **headers: bytes | None) -> bytes:
    fields = {
        "host": b"localhost",
        "content-type": b"application/json",
        "content-length": str(len(body)).encode(),
        "connection": b"close",
    } | headers
    lines = [b"%s: %s\r\n" % (name.encode(), value) for name, value in fields.items() if value is not None]
    return b"%s %s HTTP/1.1\r\n%s\r\n%s" % (route[0].encode(), route[1].encode(), b"".join(lines), body)


def status_of(reply: bytes) -> int:
    return int(reply.split(b" ", 2)[1])


def check_error(reply: bytes) -> dict[str, Any]:
    """Return the error of a response, after a look at its form."""
    error: dict[str, Any] = json.loads(reply.partition(b"\r\n\r\n")[2])["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert "Traceback" not in error["message"]
    return error


HEADERS = (
    *("authorization", "x-request-id", "x-session-id", "traceparent", "tracestate", "content-type", "accept", "origin"),
    *("accept-encoding", "content-encoding", "user-agent", "x-forwarded-for", "idempotency-key", "cookie", "x-any"),
)
VALUES = (b"\xff\xfe", "\u00fcbel".encode(), b"\x80" * 300, b"")


async def checked(server: Served, route: Route, **headers: bytes) -> None:
    """Send a request, and look at what it is answered."""
    reply = await server.ask(request(route, json.dumps(HELLO).encode(), **headers))
    status = status_of(reply)
    assert status < 500 or status == UNREACHABLE, (route, headers, reply[:300])
    if status >= 400 and route[0] != "HEAD":
        check_error(reply)


async def test_headers_of_any_bytes_are_answered_at_every_route(server: Served, routes: list[Route]) -> None:
    for route in routes:
        for value in VALUES:
            await checked(server, route, **dict.fromkeys(HEADERS, value))


async def test_each_header_of_any_bytes_is_answered(server: Served) -> None:
    for header in HEADERS:
        for value in VALUES:
            await checked(server, ("POST", "/v1/completions"), **{header: value})


def nested(opening: bytes, closing: bytes) -> bytes:
    return b'{"model":' + opening * 50_000 + closing * 50_000 + b"}"


BODIES = {
    "nothing": b"",
    "half an object": b"{",
    "a list": b"[]",
    "null": b"null",
    "a number": b"1",
    "a text": b'"x"',
    "no UTF-8": b"\xff\xfe",
    "a surrogate in UTF-8": b'{"model":"\xed\xa0\x80"}',
    "a lone surrogate": b'{"model":"\\ud800","messages":[],"prompt":"\\ud800"}',
    "deep lists": nested(b"[", b"]"),
    "deep objects": nested(b'{"a":', b"}"),
    "a number beyond all": b'{"model":"base","temperature":1e400}',
    "a number of many digits": b'{"model":"base","max_tokens":' + b"9" * 5000 + b"}",
    "NaN": b'{"model":"base","temperature":NaN}',
    "a name twice": b'{"model":"base","model":"other"}',
    "UTF-16": json.dumps(HELLO).encode("utf-16"),
    "a mark of byte order": b"\xef\xbb\xbf" + json.dumps(HELLO).encode(),
}


async def test_a_body_that_is_no_request_is_a_4xx_at_every_route_that_reads_one(
    server: Served, routes: list[Route]
) -> None:
    for route in routes:
        if route[0] not in ("POST", "PUT", "PATCH") or route == ("POST", "/ping"):
            continue
        for name, body in BODIES.items():
            reply = await server.ask(request(route, body))
            assert 400 <= status_of(reply) < 500, (route, name, reply[:300])
            check_error(reply)


DECLARED: tuple[tuple[dict[str, bytes | None], str], ...] = (
    ({"content-encoding": b"gzip"}, "'Content-Encoding' is 'gzip'"),
    ({"content-encoding": b"br, gzip"}, "'Content-Encoding' is 'br, gzip'"),
    ({"content-type": b"application/json; charset=utf-16"}, "charset of 'Content-Type' is 'utf-16'"),
    ({"content-type": b"text/plain"}, "'Content-Type' is 'text/plain'"),
    ({"content-type": b"multipart/form-data; boundary=x"}, "'Content-Type' is 'multipart/form-data; boundary=x'"),
    ({"content-type": b"application/x-www-form-urlencoded"}, "'application/json' is needed"),
    ({"content-type": None}, "'Content-Type' is missing"),
)


async def test_a_body_that_is_declared_otherwise_is_refused_by_name(server: Served) -> None:
    body = gzip.compress(json.dumps(HELLO).encode())
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/intrinsics", "/v1/load_lora_adapter"):
        for headers, named in DECLARED:
            reply = await server.ask(request(("POST", path), body, **headers))
            assert status_of(reply) == 415, path
            assert named in check_error(reply)["message"]


TOKENS: tuple[dict[str, bytes], ...] = (
    {"authorization": JWT.encode()},
    {"authorization": f"Bearer {JWT}".encode()},
    {"authorization": f"Bearer {JWT} ".encode() * 2},
    {"authorization": b"Basic YWNtZTpzZWNyZXQ="},
    {"authorization": b"Bearer"},
    {"authorization": b"Bearer \xff\xfe"},
    {"x-api-key": JWT.encode()},
    {"cookie": f"token={JWT}".encode()},
    {"proxy-authorization": f"Bearer {JWT}".encode()},
)


async def test_a_token_that_is_none_or_stands_elsewhere_is_a_401_that_does_not_repeat_it(
    open_gateway: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    routes = (("POST", "/v1/chat/completions"), ("GET", f"/v1/models?api_key={JWT}"), ("GET", "/v1/receipts"))
    async with serving(open_gateway(**KEYS).http_app()) as server:
        for headers in TOKENS:
            for route in routes:
                reply = await server.ask(request(route, json.dumps(HELLO).encode(), **headers))
                assert status_of(reply) == 401, (route, reply)
                assert "key" in check_error(reply)["message"]
                assert JWT.encode() not in reply
    assert JWT not in "".join(capfd.readouterr())
