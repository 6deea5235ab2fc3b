"""What the streaming client reads from a stream, from a server on loopback."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from urllib3.util.wait import wait_for_read

from aloraserve.wire import answer_stream
from aloraserve.wire.answer_stream import CallFailedError
from aloraserve_services.cli import client
from aloraserve_services.cli.client import StreamingClient

COUNTS = {"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}}
USAGE = b"data: " + json.dumps({"choices": [], "usage": COUNTS}).encode() + b"\n\n"
DONE = b"data: [DONE]\n\n"


def event(delta: dict[str, str], finish: str | None = None) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": delta, "finish_reason": finish}]}).encode() + b"\n\n"


class Clock:
    """Stands in for the client's ``time``: moves a little with each reading, and lets one who waits for it go on."""

    def __init__(self) -> None:
        self.now = 0.0
        self.read = threading.Semaphore(0)

    def perf_counter(self) -> float:
        self.now += 0.001
        now = self.now
        self.read.release()
        return now


class Server(HTTPServer):
    """Streams ``events`` and closes each connection afterwards without having said so.

    None is a pause of 0.3 s on ``clock``, which begins once the client has read it ``reads`` times.
    """

    events: list[bytes | None]
    paths: list[str]
    clock: Clock
    reads = 1


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.server.paths.append(self.path)
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("x-aloraserve-prefill-ms", "12.5")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for event_bytes in self.server.events:
            if event_bytes is None:
                for _ in range(self.server.reads):
                    assert self.server.clock.read.acquire(timeout=10)
                self.server.clock.now += 0.3
            else:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(event_bytes), event_bytes))
                self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as found:
        found.clock, found.paths = Clock(), []
        monkeypatch.setattr(client, "time", found.clock)
        monkeypatch.setattr(answer_stream, "time", found.clock)
        thread = threading.Thread(target=found.serve_forever, args=(0.05,))
        thread.start()
        yield found
        found.shutdown()
        thread.join()


@pytest.fixture
def streaming(server: Server) -> Iterator[StreamingClient]:
    with contextlib.closing(StreamingClient(f"http://127.0.0.1:{server.server_port}")) as found:
        yield found


def test_a_special_token_is_a_token(server: Server, streaming: StreamingClient) -> None:
    """Such a token's content is empty; an untrained intrinsic begins with it, its twin does not."""
    server.events = [
        event({"role": "assistant", "content": ""}),
        event({"content": ""}),
        None,
        event({"content": "yes"}, "length"),
        USAGE,
        DONE,
    ]
    # When it was sent, and its first token.
    server.reads = 2
    answer = streaming.chat("m", [], 2)
    assert answer.text == "yes"
    assert answer.e2e_s - answer.ttft_s >= 0.25
    assert (answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens) == (7, 2, 3)
    assert answer.prefill_s == pytest.approx(0.0125)


def test_the_role_is_not_a_token(server: Server, streaming: StreamingClient) -> None:
    role = event({"role": "assistant", "content": ""})
    server.events = [role, None, event({"content": "no"}, "length"), USAGE, DONE]
    answer = streaming.chat("m", [], 1)
    assert answer.ttft_s >= 0.25
    assert answer.e2e_s == answer.ttft_s


def test_a_connection_that_the_server_closed_is_not_used_again(server: Server, streaming: StreamingClient) -> None:
    server.events = [event({"content": "no"}, "length"), USAGE, DONE]
    for _ in range(3):
        assert streaming.chat("m", [], 1).text == "no"
        (idle,) = streaming._idle
        assert wait_for_read(idle.sock, timeout=10)


@pytest.mark.parametrize("last", [b"", b'data: {"choices": [], "error": {"message": "it ended"}}\n\n'])
def test_a_stream_that_ends_early_is_a_failure(server: Server, streaming: StreamingClient, last: bytes) -> None:
    server.events = [event({"content": "no"}), *([last] if last else [])]
    with pytest.raises(CallFailedError, match="cut short"):
        streaming.chat("m", [], 1)


def test_a_platform_elsewhere_is_reached_by_the_environments_proxy(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.events = [event({"content": "no"}, "length"), USAGE, DONE]
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("no_proxy", "")
    with StreamingClient("http://platform.test:8000", is_elsewhere=True) as elsewhere:
        assert elsewhere.chat("m", [], 1).text == "no"
    assert server.paths == ["http://platform.test:8000/v1/chat/completions"]


def test_a_platform_of_this_machine_is_reached_without_a_proxy(
    server: Server, streaming: StreamingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.events = [event({"content": "no"}, "length"), USAGE, DONE]
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert streaming.chat("m", [], 1).text == "no"
    assert server.paths == ["/v1/chat/completions"]


@pytest.mark.parametrize("url", ["ftp://x", "127.0.0.1:8000", "http://"])
def test_an_address_that_is_not_accepted_is_named(url: str) -> None:
    with pytest.raises(ValueError, match=f"url is {url!r}; http://host:port"):
        StreamingClient(url)


def test_a_refusal_has_its_status(streaming: StreamingClient) -> None:
    with pytest.raises(CallFailedError, match="models answered 501"):
        streaming.models()
