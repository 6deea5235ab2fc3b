"""The edge of a whole platform: its own HTTP servers, clients that misbehave, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import signal
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest
from support.api_fuzz import fuzz
from support.certificates import write_certificate
from support.grpc_fuzz import play
from support.raw_http import REFUSED, TAKEN, statuses
from support.redis_deployments import free_port

from aloraserve.v1.chat_pb2 import ChatRequest, ChatStreamResponse
from aloraserve.wire.protobuf import message_of

BASE = "SmolLM2-135M-Instruct"
CHAT = "/v1/chat/completions"
GATEWAYS = 2
HELLO = [{"role": "user", "content": "Tell me about ferries."}]
LONG: dict[str, Any] = {"model": BASE, "messages": HELLO, "max_tokens": 600, "ignore_eos": True, "stream": True}
ENDLESS = LONG | {"max_tokens": 6000}
"""Takes longer than any test waits: what ends sooner was ended."""
AT_ONCE_S = 5.0
"""A tenth of a second where nothing else runs on the machine."""
SHORT: dict[str, Any] = {"model": BASE, "messages": HELLO, "max_tokens": 1}

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def grpc_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def fleet(start: Callable[..., Any], grpc_port: int) -> Iterator[Any]:
    flags = ("--engine", "simulated", "--gateways", str(GATEWAYS), "--grpc-port", str(grpc_port))
    with start(*flags, own_state=True) as running:
        yield running


@pytest.fixture
def channel(fleet: Any, grpc_port: int) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{grpc_port}", [("grpc.use_local_subchannel_pool", 1)]) as opened:
        yield opened


def grpc_chat(channel: grpc.Channel, **fields: Any) -> Any:
    """Begin a streamed chat over gRPC."""
    message = message_of(ChatRequest, {name: value for name, value in (LONG | fields).items() if name != "stream"})
    call = channel.unary_stream(
        "/aloraserve.v1.Inference/ChatStream",
        request_serializer=ChatRequest.SerializeToString,
        response_deserializer=ChatStreamResponse.FromString,
    )
    return call(message, timeout=60)


def gateways(fleet: Any) -> list[psutil.Process]:
    found = []
    for process in fleet.process.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "ServeReplica:aloraserve:gateway" in " ".join(process.cmdline()):
                found.append(process)
    return found


def port_of(fleet: Any) -> int:
    return int(fleet.url.rpartition(":")[2])


def connect(fleet: Any) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port_of(fleet)), timeout=30)


def raw(body: dict[str, Any], *headers: str) -> bytes:
    content = json.dumps(body).encode()
    lines = [f"POST {CHAT} HTTP/1.1", "host: localhost", "content-type: application/json", *headers]
    return ("\r\n".join([*lines, f"content-length: {len(content)}"]) + "\r\n\r\n").encode() + content


def running(fleet: Any) -> int:
    return sum(one["load"]["running"] + one["load"]["waiting"] for one in fleet.replicas()["replicas"])


def in_progress(fleet: Any) -> list[float]:
    """Return how many calls each gateway counts as its own."""
    lines = [line for text in fleet.metrics("gateway") for line in text.splitlines()]
    return [float(line.split()[1]) for line in lines if line.startswith("aloraserve_requests_in_progress ")]


def test_gateways_listen_on_the_loopback_address_alone_and_no_proxy_does(fleet: Any) -> None:
    found = gateways(fleet)
    listening = {
        process.pid: [
            one.laddr.ip
            for one in process.net_connections("tcp")
            if one.status == psutil.CONN_LISTEN and one.laddr.port == port_of(fleet)
        ]
        for process in found
    }
    assert list(listening.values()) == [["127.0.0.1"]] * GATEWAYS
    lines = [" ".join(process.cmdline()) for process in fleet.process.children(recursive=True)]
    assert not [line for line in lines if "Proxy" in line]


def test_serve_s_control_headers_have_no_effect(fleet: Any) -> None:
    headers = {
        "x-request-timeout-seconds": "0.000001",
        "serve_multiplexed_model_id": "nobody",
        "x-request-disconnect-disabled": "?1",
    }
    answer = fleet.http.post(CHAT, json=SHORT, headers=headers)
    assert answer.status_code == 200, answer.text
    with connect(fleet) as client:
        client.sendall(raw(ENDLESS, *(f"{name}: {value}" for name, value in headers.items())))
        assert client.recv(1)
        fleet.wait_until(lambda: running(fleet) == 1, 30, "the call to run")
    fleet.wait_until(lambda: running(fleet) == 0, 30, "the client's departure to end the call")


@pytest.mark.parametrize("is_streamed", [True, False])
def test_a_client_that_goes_away_frees_its_engine_at_once(fleet: Any, is_streamed: bool) -> None:
    # The best of three: what another process of the machine takes is not the platform's time.
    assert min(seconds_until_free(fleet, is_streamed) for _ in range(3)) < AT_ONCE_S


def seconds_until_free(fleet: Any, is_streamed: bool) -> float:
    """Return how long an engine goes on after its client has gone; the answer would take much longer."""
    with connect(fleet) as client:
        client.sendall(raw(ENDLESS | {"stream": is_streamed}))
        fleet.wait_until(lambda: running(fleet) == 1, 30, "the call to run")
        began = time.monotonic()
    fleet.wait_until(lambda: running(fleet) == 0, 30, "the call to end")
    return time.monotonic() - began


def test_a_request_sent_again_has_one_answer_whichever_gateway_gets_it(fleet: Any) -> None:
    """Each of these has a connection of its own, and the kernel gives it to one of the gateways."""

    def ask(**changes: Any) -> httpx.Response:
        return fleet.http.post(CHAT, json=SHORT | changes, headers={"Idempotency-Key": "order-1"})

    first = ask()
    assert first.status_code == 200, first.text
    again = [ask() for _ in range(8)]
    assert {answer.content for answer in again} == {first.content}
    assert all(answer.headers["idempotent-replayed"] == "true" for answer in again)
    assert {ask(max_tokens=2).status_code for _ in range(4)} == {422}


def held(fleet: Any) -> list[tuple[int, int]]:
    """Return how many files and threads each gateway has."""
    return [(process.num_fds(), process.num_threads()) for process in gateways(fleet)]


def test_requests_that_no_client_writes_are_refused_and_leave_nothing_behind(fleet: Any) -> None:
    fleet.chat(BASE, HELLO)
    before, memory = held(fleet), [process.memory_info().rss for process in gateways(fleet)]
    for shape, sent in {**REFUSED, **TAKEN}.items():
        # Those that are waited for have their own deadlines, see tests/unit.
        if shape == "a chunk of gigabytes":
            continue
        with connect(fleet) as client, contextlib.suppress(ConnectionError):
            client.sendall(sent)
            reply = b"".join(iter(functools.partial(client.recv, 1 << 16), b""))
            assert reply.count(b"Traceback") == 0
            assert all(200 <= status < 500 for status in statuses(reply) if status != 100), (shape, reply[:200])
    assert fleet.http.post(CHAT, json=SHORT, timeout=60).status_code == 200
    fleet.wait_until(lambda: all(now[0] <= old[0] + 8 for now, old in zip(held(fleet), before, strict=True)), 60, "fds")
    grown = [process.memory_info().rss - old for process, old in zip(gateways(fleet), memory, strict=True)]
    assert max(grown) < 50 << 20, grown


def test_a_hundred_connections_that_send_nothing_disturb_nobody(fleet: Any) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(100):
            client = stack.enter_context(connect(fleet))
            if number % 2:
                client.sendall(raw(SHORT)[:-1])
        for path in ("/healthz", "/readyz", "/v1/models"):
            assert fleet.http.get(path, timeout=60).status_code == 200
        assert fleet.http.post(CHAT, json=SHORT, timeout=60).status_code == 200


def test_both_gateways_answer_grpc_and_a_client_that_goes_away_frees_its_engine(
    fleet: Any, channel: grpc.Channel, grpc_port: int
) -> None:
    listening = [
        {
            # gRPC's socket is one of IPv6, for this address too.
            one.laddr.ip.removeprefix("::ffff:")
            for one in process.net_connections("tcp")
            if one.status == psutil.CONN_LISTEN and one.laddr.port == grpc_port
        }
        for process in gateways(fleet)
    ]
    assert listening == [{"127.0.0.1"}] * GATEWAYS
    parts = list(grpc_chat(channel, max_tokens=8))
    assert parts[-1].usage.completion_tokens == 8
    assert fleet.http.get(f"/v1/receipts/{parts[0].serving.receipt_id}").status_code == 200
    stream = grpc_chat(channel, max_tokens=ENDLESS["max_tokens"])
    next(stream)
    fleet.wait_until(lambda: running(fleet) == 1, 30, "the call to run")
    stream.cancel()
    fleet.wait_until(lambda: running(fleet) == 0, 30, "the client's departure to end the call")


def test_the_doctor_finds_nothing_wrong_with_it(fleet: Any, grpc_port: int, command: Callable[..., Any]) -> None:
    flags = ("--json", "--engine", "simulated", "--state-dir", str(fleet.state_dir), "--grpc-port", str(grpc_port))
    done = command("doctor", *flags)
    found = {finding["check"]: finding for finding in json.loads(done.stdout)["findings"]}
    levels = {name: found[name]["level"] for name in ("platform", "version", "key", "replicas", "metrics", "grpc")}
    assert set(levels.values()) == {"ok"}, found
    assert found["metrics"]["found"] == f"{2 + GATEWAYS} processes answer scrapes"
    assert done.returncode == 0, done.stdout


def test_random_messages_over_grpc_are_refused_and_leave_nothing_behind(fleet: Any, grpc_port: int) -> None:
    """``python -m support.grpc_fuzz --port PORT`` plays 20,000."""
    asyncio.run(play(grpc_port, 200, seed=1, model=BASE))
    before = [process.memory_info().rss for process in gateways(fleet)]
    found = asyncio.run(play(grpc_port, 600, seed=2, model=BASE))
    assert found["INVALID_ARGUMENT"] > 300
    assert not found.keys() & {"INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED", "UNAVAILABLE"}, found
    grown = [process.memory_info().rss - used for process, used in zip(gateways(fleet), before, strict=True)]
    assert max(grown) < 20 << 20, grown
    fleet.wait_until(lambda: running(fleet) == 0, 30, "the calls to end")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_thousands_of_requests_from_the_apis_descriptions_are_answered_clearly(start: Callable[..., Any]) -> None:
    """As ``python -m support.grpc_fuzz`` and ``make fuzz-api`` play them; the latter makes keys, so gRPC goes first."""
    port = free_port()
    with start("--engine", "simulated", "--grpc-port", str(port), own_state=True) as fleet:
        found = asyncio.run(play(port, 20_000, seed=3, model=BASE))
        assert not found.keys() & {"INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED", "UNAVAILABLE"}, found
        assert found["INVALID_ARGUMENT"] > 10_000, found
        assert sum(found.values()) >= 20_000, found
        outcome = fuzz(fleet.http, 3000, models=[BASE])
        assert not outcome.faults, outcome.faults[:20]
        assert outcome.cases > 2000
        print(dict(found), outcome.cases, sorted(outcome.statuses.items()))


@pytest.mark.parametrize("count", [2000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_thousands_of_connects_and_disconnects_leave_nothing_behind(fleet: Any, count: int) -> None:
    fleet.chat(BASE, HELLO)
    before, memory = held(fleet), [process.memory_info().rss for process in gateways(fleet)]
    linger = struct.pack("ii", 1, 0)
    pieces = [b"", b"GET /healthz HT", raw(SHORT)[:-5], raw(SHORT), raw(LONG)]
    for number in range(count):
        with connect(fleet) as client:
            # A whole call is work; most only come and go.
            piece = pieces[number % 3] if number % 100 else pieces[3 + number // 100 % 2]
            client.sendall(piece)
            if number % 2:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    fleet.wait_until(lambda: running(fleet) == 0, 60, "every call to have ended")
    fleet.wait_until(lambda: all(now[0] <= old[0] + 8 for now, old in zip(held(fleet), before, strict=True)), 60, "fds")
    grown = [process.memory_info().rss - old for process, old in zip(gateways(fleet), memory, strict=True)]
    assert max(grown) < 50 << 20, grown
    assert len(fleet.metrics("gateway")) == len(before)
    # An engine forgets a call before its gateway does.
    fleet.wait_until(lambda: in_progress(fleet) == [0] * GATEWAYS, 60, "the gateways to have forgotten every call")


def test_clients_that_never_read_leave_memory_flat(fleet: Any) -> None:
    memory = [process.memory_info().rss for process in gateways(fleet)]
    with contextlib.ExitStack() as stack:
        for _ in range(64):
            client = stack.enter_context(connect(fleet))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(raw(ENDLESS))
        fleet.wait_until(lambda: running(fleet) > 0, 30, "the calls to run")
        for _ in range(100):
            assert fleet.http.get("/healthz", timeout=60).status_code == 200
        grown = [process.memory_info().rss - old for process, old in zip(gateways(fleet), memory, strict=True)]
        assert max(grown) < 50 << 20, grown
    fleet.wait_until(lambda: running(fleet) == 0, 30, "the calls to end with their clients")


def test_a_gateway_that_dies_is_replaced_on_the_same_port(fleet: Any) -> None:
    victim, *_ = gateways(fleet)
    victim.kill()

    def healed() -> bool:
        found = gateways(fleet)
        return len(found) == GATEWAYS and victim.pid not in {process.pid for process in found}

    fleet.wait_until(healed, 60, "another gateway to start")
    ports = [port_of(fleet)] * GATEWAYS

    def listening() -> list[int]:
        connections = [one for process in gateways(fleet) for one in process.net_connections("tcp")]
        return [
            one.laddr.port
            for one in connections
            if one.status == psutil.CONN_LISTEN and one.laddr.port == port_of(fleet)
        ]

    fleet.wait_until(lambda: listening() == ports, 60, "it to listen")
    assert all(fleet.http.post(CHAT, json=SHORT).status_code == 200 for _ in range(8))


class Stream(threading.Thread):
    """A streamed answer that is read to its end."""

    def __init__(self, client: httpx.Client, body: dict[str, Any] = LONG) -> None:
        super().__init__()
        self._client = client
        self._body = body
        self.began = threading.Event()
        self.lines: list[str] = []
        self.failure: Exception | None = None

    def run(self) -> None:
        """Read."""
        try:
            with self._client.stream("POST", CHAT, json=self._body) as answer:
                for line in answer.iter_lines():
                    self.lines.append(line)
                    self.began.set()
        except httpx.HTTPError as error:
            self.failure = error


def test_down_lets_running_answers_end_and_takes_no_more(
    fleet: Any, command: Callable[..., Any], channel: grpc.Channel
) -> None:
    """The last test of this platform."""
    stream = Stream(fleet.http)
    stream.start()
    assert stream.began.wait(30)
    over_grpc = grpc_chat(channel)
    next(over_grpc)
    process = fleet.process
    stopped = command("down", "--state-dir", str(fleet.state_dir))
    assert stopped.returncode == 0, stopped.stderr
    stream.join(30)
    assert stream.failure is None
    *_, last = over_grpc
    assert last.usage.completion_tokens == LONG["max_tokens"]
    text = [line for line in stream.lines if line]
    assert text[-1] == "data: [DONE]"
    assert '"error"' not in "".join(text)
    assert '"finish_reason":"length"' in text[-2]
    assert not process.is_running()
    logs = {path.name for path in (fleet.state_dir / "logs").iterdir()}
    assert {"gateway-0.log", "gateway-1.log", "engine-0.log", "ray"} <= logs, "there is something to read afterwards"
    assert list((fleet.state_dir / "logs" / "ray").glob("gcs_server*"))


def test_tls_is_served_and_a_second_signal_ends_the_platform_at_once(
    start: Callable[..., Any], command: Callable[..., Any], tmp_path: Path
) -> None:
    certificate, key = write_certificate(tmp_path, "api.example")
    config = tmp_path / "tls.yaml"
    config.write_text(f"tls_certificate: {certificate}\ntls_key: {key}\ndrain_timeout_s: 3600\n")
    with start("--engine", "simulated", "--config", str(config), own_state=True) as fleet:
        context = ssl.create_default_context(cafile=str(certificate))
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        url = fleet.url.replace("http:", "https:")
        with httpx.Client(base_url=url, verify=context, trust_env=False, timeout=60) as client:
            assert client.get("/v1/models").status_code == 200
            with pytest.raises(httpx.HTTPError):
                fleet.http.get("/healthz")
            shown = command("status", "--state-dir", str(fleet.state_dir))
            assert shown.returncode == 0, shown.stderr
            stream = Stream(client, ENDLESS)
            stream.start()
            assert stream.began.wait(30)
            process = fleet.process
            process.send_signal(signal.SIGTERM)
            log = fleet.state_dir / "up.log"
            fleet.wait_until(lambda: "a second signal ends at once" in log.read_text(), 60, "it to drain")
            process.send_signal(signal.SIGTERM)
            process.wait(30)
            stream.join(30)
            assert '"finish_reason":"length"' not in "".join(stream.lines), "it was cut off"
