"""The live comparison's parts: its conversations, its client, and what it makes of the answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from aloraserve.engine_model.calibration import load
from aloraserve_services.cli.bench_routing_live import LiveResult, slowed, sum_up
from aloraserve_services.cli.client import CallFailedError
from aloraserve_services.cli.live_client import LightClient, Streamed
from aloraserve_services.cli.live_workload import DOCUMENT_TOKENS, NEW_TOKENS, TURNS, conversations, hit_bound

HEAD = (
    b"HTTP/1.1 200 OK\r\nX-Aloraserve-Prompt-Tokens: 30\r\nx-aloraserve-cached-tokens: 16\r\n"
    b"x-aloraserve-replica: engine-1\r\nx-aloraserve-policy: expected-ttft\r\ntransfer-encoding: chunked\r\n\r\n"
)
Served = Callable[[asyncio.StreamWriter], Awaitable[None]]


def test_equal_seeds_have_equal_conversations_and_a_rate_changes_only_their_starts() -> None:
    slow, fast = conversations(3, 1), conversations(6, 1)
    assert conversations(3, 1) == slow
    assert [(one.document, one.turns) for one in slow] == [(one.document, one.turns) for one in fast]
    assert [one.start_s for one in fast] == pytest.approx([one.start_s / 2 for one in slow])
    assert conversations(3, 2) != slow


def test_conversations_are_those_of_the_comparison() -> None:
    made = conversations(3, 0)
    assert len(made) == 72
    assert len({tuple(one.document) for one in made}) == 6
    assert {len(one.document) for one in made} == {DOCUMENT_TOKENS}
    assert {len(one.turns) for one in made} == {TURNS}
    lengths = [len(turn.token_ids) for one in made for turn in one.turns]
    assert NEW_TOKENS[0] <= min(lengths) < 80
    assert 380 < max(lengths) <= NEW_TOKENS[1]
    assert 20 < made[-1].start_s < 28


@pytest.mark.parametrize(("rate", "count"), [(0, 1), (-1, 1), (1, 0)])
def test_a_rate_or_count_that_is_not_positive_is_refused(rate: float, count: int) -> None:
    with pytest.raises(ValueError, match="have to be positive"):
        conversations(rate, 0, count)


def test_the_bound_is_below_the_target_because_loras_compute_again() -> None:
    assert hit_bound(conversations(3, 0), 16) == pytest.approx(0.9298, abs=1e-4)


def test_a_slower_engine_takes_longer_for_everything_and_holds_as_much() -> None:
    whole = load("h100-llama-3.1-8b")
    half = slowed(whole, 2)
    for part in ("prefill", "decode"):
        before, after = getattr(whole, part).model_dump(), getattr(half, part).model_dump()
        assert after == pytest.approx({name: 2 * value for name, value in before.items()})
    assert half.adapters.load_s == 2 * whole.adapters.load_s
    assert (half.kv_tokens, half.adapters.slots) == (whole.kv_tokens, whole.adapters.slots)


def event(text: str) -> bytes:
    data = b"data: " + json.dumps({"choices": [{"text": text}]}).encode() + b"\n\n"
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


async def called(serve: Served) -> tuple[Streamed, bytes]:
    """Make a call to a server that answers so; return also the request."""
    requests: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        requests.append(head + await reader.readexactly(length))
        await serve(writer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        client = LightClient("127.0.0.1", port, {"authorization": "Bearer key"})
        return await client.complete("a-1", "model", [1, 2], 3, {"x-session-id": "s"}), requests[0]


async def test_a_streamed_answer_is_read_and_timed_from_its_first_event() -> None:
    gap_s = 0.05

    async def serve(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        await writer.drain()
        await asyncio.sleep(gap_s)
        writer.write(event(" one"))
        await writer.drain()
        await asyncio.sleep(gap_s)
        writer.write(event(" two") + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    answer, request = await called(serve)
    assert (answer.text, answer.prompt_tokens, answer.cached_tokens) == (" one two", 30, 16)
    assert (answer.request_id, answer.replica, answer.policy) == ("a-1", "engine-1", "expected-ttft")
    assert gap_s <= answer.ttft_s <= answer.whole_s - gap_s * 0.9
    head, _, body = request.partition(b"\r\n\r\n")
    assert {b"x-request-id: a-1", b"x-session-id: s", b"authorization: Bearer key"} <= set(head.split(b"\r\n"))
    assert json.loads(body) == {"model": "model", "prompt": [1, 2], "max_tokens": 3, "temperature": 0, "stream": True}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.1 429 Too Many\r\n\r\nfull", "answered 429"),
        (HEAD + event(" one"), "cut short: the connection ended"),
        (HEAD + b'10\r\ndata: {"error": {"message": "lost"}}\n\n', "cut short: lost"),
        (HEAD + b"data: no json\n\n", "failed"),
        (b"", "failed"),
    ],
)
async def test_an_answer_that_is_not_whole_is_a_failure(answer: bytes, message: str) -> None:
    async def serve(writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    with pytest.raises(CallFailedError, match=message):
        await called(serve)


def test_the_gateway_s_latency_is_taken_off_call_by_call_and_times_are_the_model_s() -> None:
    answers = [
        Streamed(f"c-{number}", "", ttft_s, ttft_s, 100, cached, "engine-0", "expected-ttft")
        for number, (ttft_s, cached) in enumerate(((1.0, 0), (0.6, 90), (0.4, 60)))
    ]
    served = {"c-0": 0.8, "c-1": 0.2, "c-2": 0.2}
    result = LiveResult("expected-ttft", 3.0, slowdown=2.0)
    sum_up(result, answers, {"c-0": "base", "c-1": "alora", "c-2": "lora"}, served)
    assert (result.calls, result.hit_share) == (3, pytest.approx(0.5))
    assert result.hit_share_by_kind == {"alora": 0.9, "base": 0.0, "lora": 0.6}
    assert (result.ttft_p50_s, result.ttft_p90_s) == pytest.approx((0.3, 0.5))
    assert (result.engine_ttft_p50_s, result.engine_ttft_p90_s) == pytest.approx((0.1, 0.4))
    assert (result.gateway_p50_s, result.gateway_p90_s) == pytest.approx((0.2, 0.4))
    assert result.base_ttft_p90_s == pytest.approx(0.4)
