"""Answers: the same chunks, whole or streamed, in OpenAI's shapes of both endpoints."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.answer_events import answer_to, events_of, text_of, texts

from aloraserve.errors import InvalidRequestError, OverloadedError, ReplicaLostError
from aloraserve.serving.engine_messages import EngineChunk, TokenLogprob, TokenLogprobs
from aloraserve.wire import ChatCompletionChunk, Completion
from aloraserve_services.gateway.answers import Answer, ChatAnswer, CompletionAnswer

KINDS = pytest.mark.parametrize("kind", [ChatAnswer, CompletionAnswer])
HELLO = (EngineChunk(0, "Hel", 1, cached_tokens=32), EngineChunk(0, "lo", 2, "stop"))
TWO = (
    EngineChunk(1, "x", 1),
    EngineChunk(0, "a", 1),
    EngineChunk(0, "b", 1, "stop"),
    EngineChunk(1, "y", 1, "length"),
)
ALTERNATIVES = (TokenLogprob("né", -0.25), TokenLogprob("no", -1.5))
WITH_CHANCES = (
    EngineChunk(0, "né", 1, logprobs=(TokenLogprobs(ALTERNATIVES[0], ALTERNATIVES),)),
    EngineChunk(
        0,
        "e!",
        2,
        "stop",
        logprobs=(TokenLogprobs(TokenLogprob("e", -0.5)), TokenLogprobs(TokenLogprob("!", 0.0))),
    ),
)


async def engine(*chunks: EngineChunk | Exception) -> AsyncIterator[EngineChunk]:
    for chunk in chunks:
        if isinstance(chunk, Exception):
            raise chunk
        yield chunk


async def whole(one: Answer, *chunks: EngineChunk | Exception) -> dict[str, Any]:
    return json.loads(await one.whole(engine(*chunks)))


async def streamed(one: Answer, *chunks: EngineChunk | Exception, include_usage: bool = False) -> list[Any]:
    """Return the events' contents, after checking the stream's form and its end."""
    return events_of([sent async for sent in one.stream(engine(*chunks), include_usage=include_usage)])


async def test_a_whole_chat_answer_is_openai_s() -> None:
    before = int(time.time())
    body = await whole(answer_to(ChatAnswer), *HELLO)
    assert before <= body.pop("created") <= time.time()
    assert body == {
        "id": "chatcmpl-r1",
        "object": "chat.completion",
        "model": "safety",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello"},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 50,
            "completion_tokens": 3,
            "total_tokens": 53,
            "prompt_tokens_details": {"cached_tokens": 32},
        },
    }


async def test_a_whole_completion_is_openai_s() -> None:
    body = await whole(answer_to(CompletionAnswer), *HELLO)
    assert (body["id"], body["object"], body["model"]) == ("cmpl-r1", "text_completion", "safety")
    assert body["choices"] == [{"index": 0, "text": "Hello", "logprobs": None, "finish_reason": "stop"}]
    assert body["usage"]["total_tokens"] == 53


async def test_a_chat_stream_opens_with_the_role_and_ends_with_the_reason() -> None:
    events = await streamed(answer_to(ChatAnswer), *HELLO)
    assert {(event["id"], event["object"]) for event in events} == {("chatcmpl-r1", "chat.completion.chunk")}
    assert len({event["created"] for event in events}) == 1
    assert [event["choices"][0]["delta"] for event in events] == [
        {"role": "assistant", "content": ""},
        {"content": "Hel"},
        {"content": "lo"},
    ]
    assert [event["choices"][0]["finish_reason"] for event in events] == [None, None, "stop"]


async def test_a_completion_stream_is_its_chunks() -> None:
    events = await streamed(answer_to(CompletionAnswer), *HELLO)
    assert {(event["id"], event["object"]) for event in events} == {("cmpl-r1", "text_completion")}
    assert [event["choices"][0] for event in events] == [
        {"index": 0, "text": "Hel", "logprobs": None, "finish_reason": None},
        {"index": 0, "text": "lo", "logprobs": None, "finish_reason": "stop"},
    ]


@pytest.mark.parametrize(("kind", "part"), [(ChatAnswer, ChatCompletionChunk), (CompletionAnswer, Completion)])
async def test_every_event_is_a_valid_part(kind: type[Answer], part: type[Any]) -> None:
    events = await streamed(answer_to(kind, 2, True), *TWO, *WITH_CHANCES, include_usage=True)
    assert all(part.model_validate(event).id.endswith("-r1") for event in events)


@KINDS
@pytest.mark.parametrize("chunks", [HELLO, (*HELLO[:1], EngineChunk(0, "", 0), *HELLO[1:])])
async def test_a_stream_adds_up_to_the_whole(kind: type[Answer], chunks: tuple[EngineChunk, ...]) -> None:
    in_one = await whole(answer_to(kind), *chunks)
    events = await streamed(answer_to(kind), *chunks)
    assert texts(events) == texts([in_one]) == {0: "Hello"}


@KINDS
async def test_choices_are_kept_apart_however_they_are_mixed(kind: type[Answer]) -> None:
    body = await whole(answer_to(kind, 2), *TWO)
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    assert [choice["finish_reason"] for choice in body["choices"]] == ["stop", "length"]
    assert body["usage"]["completion_tokens"] == 4
    events = await streamed(answer_to(kind, 2), *TWO)
    assert texts(events) == texts([body]) == {0: "ab", 1: "xy"}
    finished = {
        choice["index"]: choice["finish_reason"]
        for event in events
        for choice in event["choices"]
        if choice["finish_reason"]
    }
    assert finished == {0: "stop", 1: "length"}


async def test_each_chat_choice_has_an_opening() -> None:
    events = await streamed(answer_to(ChatAnswer, 3), *TWO)
    openings = [event["choices"][0]["index"] for event in events if "role" in event["choices"][0]["delta"]]
    assert openings == [0, 1, 2]


@KINDS
async def test_the_usage_is_the_last_event_if_it_is_asked_for(kind: type[Answer]) -> None:
    *events, last = await streamed(answer_to(kind), *HELLO, include_usage=True)
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 50,
        "completion_tokens": 3,
        "total_tokens": 53,
        "prompt_tokens_details": {"cached_tokens": 32},
    }
    assert not any("usage" in event for event in events)
    assert not any("usage" in event for event in await streamed(answer_to(kind), *HELLO))


@KINDS
async def test_cached_tokens_are_those_of_the_prompt_not_of_every_choice(kind: type[Answer]) -> None:
    chunks = [EngineChunk(index, "x", 1, "stop", cached_tokens=cached) for index, cached in ((0, 32), (1, 48))]
    body = await whole(answer_to(kind, 2), *chunks)
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 48}


@KINDS
async def test_tokens_without_text_yet_are_streamed_and_counted(kind: type[Answer]) -> None:
    one = answer_to(kind)
    events = await streamed(one, EngineChunk(0, "", 1), EngineChunk(0, "é", 1, "stop"))
    assert len([event for event in events if text_of(event["choices"][0]) == ""]) == 1 + (kind is ChatAnswer)
    assert one.usage.completion_tokens == 2


@KINDS
async def test_a_chunk_with_nothing_in_it_is_not_an_event(kind: type[Answer]) -> None:
    without = await streamed(answer_to(kind), *HELLO)
    assert len(await streamed(answer_to(kind), EngineChunk(0, "", 0), *HELLO)) == len(without)


@KINDS
async def test_a_reason_without_text_is_streamed(kind: type[Answer]) -> None:
    events = await streamed(answer_to(kind), EngineChunk(0, "a", 1), EngineChunk(0, "", 0, "length"))
    assert events[-1]["choices"][0]["finish_reason"] == "length"


@KINDS
@pytest.mark.parametrize("reason", [None, "abort"])
async def test_a_whole_answer_s_reason_is_one_that_clients_know(kind: type[Answer], reason: str | None) -> None:
    body = await whole(answer_to(kind), EngineChunk(0, "a", 1, reason))
    assert body["choices"][0]["finish_reason"] == "stop"


async def test_chat_logprobs_carry_bytes_and_alternatives() -> None:
    body = await whole(answer_to(ChatAnswer, logprobs=True), *WITH_CHANCES)
    first, second, third = body["choices"][0]["logprobs"]["content"]
    assert first == {
        "token": "né",
        "logprob": -0.25,
        "bytes": [110, 195, 169],
        "top_logprobs": [
            {"token": "né", "logprob": -0.25, "bytes": [110, 195, 169]},
            {"token": "no", "logprob": -1.5, "bytes": [110, 111]},
        ],
    }
    assert (second["token"], third["logprob"], third["top_logprobs"]) == ("e", 0.0, [])


async def test_completion_logprobs_carry_offsets_in_characters() -> None:
    body = await whole(answer_to(CompletionAnswer, logprobs=True), *WITH_CHANCES)
    assert body["choices"][0]["logprobs"] == {
        "tokens": ["né", "e", "!"],
        "token_logprobs": [-0.25, -0.5, 0.0],
        "top_logprobs": [{"né": -0.25, "no": -1.5}, {"e": -0.5}, {"!": 0.0}],
        "text_offset": [0, 2, 3],
    }


async def test_streamed_chat_logprobs_add_up_to_the_whole_s() -> None:
    body = await whole(answer_to(ChatAnswer, logprobs=True), *WITH_CHANCES)
    events = await streamed(answer_to(ChatAnswer, logprobs=True), *WITH_CHANCES)
    parts = [event["choices"][0]["logprobs"] for event in events]
    assert parts[0] is None
    assert [one for part in parts[1:] for one in part["content"]] == body["choices"][0]["logprobs"]["content"]


async def test_streamed_completion_logprobs_add_up_to_the_whole_s() -> None:
    body = await whole(answer_to(CompletionAnswer, logprobs=True), *WITH_CHANCES)
    events = await streamed(answer_to(CompletionAnswer, logprobs=True), *WITH_CHANCES)
    for name, entries in body["choices"][0]["logprobs"].items():
        assert [one for event in events for one in event["choices"][0]["logprobs"][name]] == entries


@KINDS
async def test_logprobs_that_were_not_asked_for_are_not_shown(kind: type[Answer]) -> None:
    assert (await whole(answer_to(kind), *WITH_CHANCES))["choices"][0]["logprobs"] is None
    assert all(event["choices"][0]["logprobs"] is None for event in await streamed(answer_to(kind), *WITH_CHANCES))


@KINDS
@pytest.mark.parametrize(
    ("error", "message", "code"),
    [
        (ReplicaLostError("the replica was lost"), "the replica was lost", "replica_lost"),
        (InvalidRequestError("no such bias", param="n"), "no such bias", None),
        (OverloadedError("full"), "full", "overloaded"),
        (RuntimeError("/srv/hunter2"), "internal error", "internal_error"),
    ],
)
async def test_an_error_midway_is_the_last_event_before_done(
    kind: type[Answer], error: Exception, message: str, code: str | None
) -> None:
    *events, last = await streamed(answer_to(kind), HELLO[0], error, HELLO[1], include_usage=True)
    assert texts(events) == {0: "Hel"}
    assert list(last) == ["error"]
    assert (last["error"]["message"], last["error"]["code"]) == (message, code)
    assert not any("usage" in event for event in events)


@KINDS
async def test_an_error_makes_a_whole_answer_fail(kind: type[Answer]) -> None:
    with pytest.raises(ReplicaLostError):
        await answer_to(kind).whole(engine(HELLO[0], ReplicaLostError("lost")))


@KINDS
async def test_a_stream_hands_on_each_chunk_before_it_asks_for_the_next(kind: type[Answer]) -> None:
    asked: list[str] = []

    async def slow() -> AsyncIterator[EngineChunk]:
        for chunk in HELLO:
            asked.append(chunk.text)
            yield chunk

    events = answer_to(kind).stream(slow(), include_usage=False)
    async for event in events:
        if b"Hel" in event:
            break
    assert asked == ["Hel"]
    await events.aclose()  # type: ignore[attr-defined]
    assert asked == ["Hel"]


@KINDS
async def test_text_that_looks_like_an_event_stays_text(kind: type[Answer]) -> None:
    text = "\n\ndata: [DONE]\n\n\u2028\x00"
    events = await streamed(answer_to(kind), EngineChunk(0, text, 1, "stop"))
    assert texts(events) == {0: text}


async def test_streamed_offsets_count_tokens_whose_text_was_held_back() -> None:
    held = (
        EngineChunk(0, "", 1, logprobs=(TokenLogprobs(TokenLogprob("a", -1.0)),)),
        EngineChunk(0, "ab", 1, "stop", logprobs=(TokenLogprobs(TokenLogprob("b", -1.0)),)),
    )
    body = await whole(answer_to(CompletionAnswer, logprobs=True), *held)
    events = await streamed(answer_to(CompletionAnswer, logprobs=True), *held)
    assert body["choices"][0]["logprobs"]["text_offset"] == [0, 1]
    assert [event["choices"][0]["logprobs"]["text_offset"] for event in events] == [[0], [1]]


@KINDS
async def test_closing_a_stream_closes_the_engine_s_chunks(kind: type[Answer]) -> None:
    closed = []

    async def chunks() -> AsyncIterator[EngineChunk]:
        try:
            while True:
                yield EngineChunk(0, "hello", 1)
        finally:
            closed.append(True)

    events = answer_to(kind).stream(chunks(), include_usage=False)
    text = b""
    while b"hello" not in text:
        text = await anext(events)
    await events.aclose()  # type: ignore[attr-defined]
    assert closed == [True]
