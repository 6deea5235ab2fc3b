"""A streamed answer as a client reads it: which events are tokens, where counts come from, what is not whole."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aloraserve.wire import answer_stream
from aloraserve.wire.answer_stream import AnswerStream, CallFailedError

HEADERS = {
    "x-aloraserve-prompt-tokens": "30",
    "x-aloraserve-cached-tokens": "16",
    "x-aloraserve-replica": "engine-1",
    "x-aloraserve-reason": "holds the prefix",
    "x-aloraserve-policy": "expected-ttft",
    "x-aloraserve-prefill-ms": "12.5",
    "x-aloraserve-saved-ttft-ms": "250.0",
    "x-aloraserve-savings-confidence": "0.75",
    "content-type": "text/event-stream",
}


class Clock:
    """Stands in for ``time``: each reading is a second later."""

    now = 0.0

    def perf_counter(self) -> float:
        self.now += 1.0
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_stream, "time", Clock())


def stream_of(*events: dict[str, Any]) -> AnswerStream:
    stream = AnswerStream(started=0.0)
    for event in events:
        stream.read(b"data: " + json.dumps(event).encode() + b"\n")
        stream.read(b"\n")
    return stream


def choice(**delta: str) -> dict[str, Any]:
    return {"choices": [{"delta": delta}]}


def test_times_are_of_the_first_and_the_last_token() -> None:
    stream = stream_of(
        choice(role="assistant", content=""), choice(content=""), choice(content="a"), choice(content="b")
    )
    stream.read(b"data: [DONE]\n")
    answer = stream.answer(HEADERS)
    assert (answer.text, answer.ttft_s, answer.e2e_s) == ("ab", 1.0, 3.0)


def test_counts_come_from_the_usage_and_else_from_the_headers() -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}
    counted = stream_of({"choices": [{"text": "a"}]}, {"choices": [{"text": "b"}]}, {"choices": [], "usage": usage})
    counted.read(b"data: [DONE]\n")
    answer = counted.answer(HEADERS)
    assert (answer.prompt_tokens, answer.cached_tokens, answer.completion_tokens) == (7, 2, 3)
    assert answer.itl_s == pytest.approx(0.5)
    plain = stream_of({"choices": [{"text": "a"}]})
    plain.read(b"data: [DONE]\n")
    answer = plain.answer(HEADERS)
    assert (answer.prompt_tokens, answer.cached_tokens, answer.completion_tokens) == (30, 16, 0)
    assert answer.itl_s is None


def test_the_platforms_own_headers_are_read() -> None:
    stream = stream_of({"choices": [{"text": "a"}]})
    stream.read(b"data: [DONE]\n")
    answer = stream.answer(HEADERS)
    assert (answer.replica, answer.reason, answer.policy) == ("engine-1", "holds the prefix", "expected-ttft")
    assert (answer.prefill_s, answer.saved_s, answer.savings_confidence) == (0.0125, 0.25, 0.75)


def test_an_answer_without_its_end_is_a_failure() -> None:
    with pytest.raises(CallFailedError, match="cut short: the connection ended"):
        stream_of(choice(content="a")).answer(HEADERS)


def test_an_error_event_is_a_failure_with_its_message() -> None:
    with pytest.raises(CallFailedError, match="cut short: the replica was lost"):
        stream_of({"error": {"message": "the replica was lost"}})
