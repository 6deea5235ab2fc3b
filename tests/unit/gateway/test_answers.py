"""Answers: the same chunks, whole or streamed, in OpenAI's shapes of both endpoints."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloraserve.errors import InvalidRequestError, OverloadedError, ReplicaLostError
from aloraserve.serving.engine_messages import EngineChunk, TokenLogprob, TokenLogprobs
from aloraserve.wire import ChatCompletionChunk, Completion
from aloraserve.wire.chat import ChatChunkChoice, ChatDelta, ChatLogprobs, ChatTokenLogprob, ChatTopLogprob
from aloraserve.wire.completions import CompletionChoice, CompletionLogprobs
from aloraserve_services.gateway.answers import MAX_TOGETHER, Answer, ChatAnswer, CompletionAnswer

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


def answer(kind: type[Answer], choices: int = 1, logprobs: bool = False) -> Answer:
    return kind("r1", "safety", 50, choices, logprobs)


async def whole(one: Answer, *chunks: EngineChunk | Exception) -> dict[str, Any]:
    return json.loads(await one.whole(engine(*chunks)))


async def streamed(one: Answer, *chunks: EngineChunk | Exception, include_usage: bool = False) -> list[Any]:
    """Return the events' contents, after checking the stream's form and its end."""
    return events_of([sent async for sent in one.stream(engine(*chunks), include_usage=include_usage)])


def events_of(writes: list[bytes]) -> list[Any]:
    """Return the contents of the events in some writes, after checking their form."""
    assert all(written.startswith(b"data: ") and written.endswith(b"\n\n") for written in writes)
    *events, rest = b"".join(writes).split(b"\n\n")
    assert rest == b""
    assert all(event.startswith(b"data: ") and b"\n" not in event for event in events)
    data = [event.removeprefix(b"data: ") for event in events]
    assert data[-1] == b"[DONE]"
    assert b"[DONE]" not in data[:-1]
    return [json.loads(one) for one in data[:-1]]


def text_of(choice: dict[str, Any]) -> str:
    if "message" in choice:
        return choice["message"]["content"]
    return choice["delta"].get("content", "") if "delta" in choice else choice["text"]


def texts(events: list[Any]) -> dict[int, str]:
    found: dict[int, str] = {}
    for event in events:
        for choice in event["choices"]:
            found[choice["index"]] = found.get(choice["index"], "") + text_of(choice)
    return found


async def test_a_whole_chat_answer_is_openai_s() -> None:
    before = int(time.time())
    body = await whole(answer(ChatAnswer), *HELLO)
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
    body = await whole(answer(CompletionAnswer), *HELLO)
    assert (body["id"], body["object"], body["model"]) == ("cmpl-r1", "text_completion", "safety")
    assert body["choices"] == [{"index": 0, "text": "Hello", "logprobs": None, "finish_reason": "stop"}]
    assert body["usage"]["total_tokens"] == 53


async def test_a_chat_stream_opens_with_the_role_and_ends_with_the_reason() -> None:
    events = await streamed(answer(ChatAnswer), *HELLO)
    assert {(event["id"], event["object"]) for event in events} == {("chatcmpl-r1", "chat.completion.chunk")}
    assert len({event["created"] for event in events}) == 1
    assert [event["choices"][0]["delta"] for event in events] == [
        {"role": "assistant", "content": ""},
        {"content": "Hel"},
        {"content": "lo"},
    ]
    assert [event["choices"][0]["finish_reason"] for event in events] == [None, None, "stop"]


async def test_a_completion_stream_is_its_chunks() -> None:
    events = await streamed(answer(CompletionAnswer), *HELLO)
    assert {(event["id"], event["object"]) for event in events} == {("cmpl-r1", "text_completion")}
    assert [event["choices"][0] for event in events] == [
        {"index": 0, "text": "Hel", "logprobs": None, "finish_reason": None},
        {"index": 0, "text": "lo", "logprobs": None, "finish_reason": "stop"},
    ]


@pytest.mark.parametrize(("kind", "part"), [(ChatAnswer, ChatCompletionChunk), (CompletionAnswer, Completion)])
async def test_every_event_is_a_valid_part(kind: type[Answer], part: type[Any]) -> None:
    events = await streamed(answer(kind, 2, True), *TWO, *WITH_CHANCES, include_usage=True)
    assert all(part.model_validate(event).id.endswith("-r1") for event in events)


@KINDS
@pytest.mark.parametrize("chunks", [HELLO, (*HELLO[:1], EngineChunk(0, "", 0), *HELLO[1:])])
async def test_a_stream_adds_up_to_the_whole(kind: type[Answer], chunks: tuple[EngineChunk, ...]) -> None:
    in_one = await whole(answer(kind), *chunks)
    events = await streamed(answer(kind), *chunks)
    assert texts(events) == texts([in_one]) == {0: "Hello"}


@KINDS
async def test_choices_are_kept_apart_however_they_are_mixed(kind: type[Answer]) -> None:
    body = await whole(answer(kind, 2), *TWO)
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    assert [choice["finish_reason"] for choice in body["choices"]] == ["stop", "length"]
    assert body["usage"]["completion_tokens"] == 4
    events = await streamed(answer(kind, 2), *TWO)
    assert texts(events) == texts([body]) == {0: "ab", 1: "xy"}
    finished = {
        choice["index"]: choice["finish_reason"]
        for event in events
        for choice in event["choices"]
        if choice["finish_reason"]
    }
    assert finished == {0: "stop", 1: "length"}


async def test_each_chat_choice_has_an_opening() -> None:
    events = await streamed(answer(ChatAnswer, 3), *TWO)
    openings = [event["choices"][0]["index"] for event in events if "role" in event["choices"][0]["delta"]]
    assert openings == [0, 1, 2]


@KINDS
async def test_the_usage_is_the_last_event_if_it_is_asked_for(kind: type[Answer]) -> None:
    *events, last = await streamed(answer(kind), *HELLO, include_usage=True)
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 50,
        "completion_tokens": 3,
        "total_tokens": 53,
        "prompt_tokens_details": {"cached_tokens": 32},
    }
    assert not any("usage" in event for event in events)
    assert not any("usage" in event for event in await streamed(answer(kind), *HELLO))


@KINDS
async def test_cached_tokens_are_those_of_the_prompt_not_of_every_choice(kind: type[Answer]) -> None:
    chunks = [EngineChunk(index, "x", 1, "stop", cached_tokens=cached) for index, cached in ((0, 32), (1, 48))]
    body = await whole(answer(kind, 2), *chunks)
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 48}


@KINDS
async def test_tokens_without_text_yet_are_streamed_and_counted(kind: type[Answer]) -> None:
    one = answer(kind)
    events = await streamed(one, EngineChunk(0, "", 1), EngineChunk(0, "é", 1, "stop"))
    assert len([event for event in events if text_of(event["choices"][0]) == ""]) == 1 + (kind is ChatAnswer)
    assert one.usage.completion_tokens == 2


@KINDS
async def test_a_chunk_with_nothing_in_it_is_not_an_event(kind: type[Answer]) -> None:
    without = await streamed(answer(kind), *HELLO)
    assert len(await streamed(answer(kind), EngineChunk(0, "", 0), *HELLO)) == len(without)


@KINDS
async def test_a_reason_without_text_is_streamed(kind: type[Answer]) -> None:
    events = await streamed(answer(kind), EngineChunk(0, "a", 1), EngineChunk(0, "", 0, "length"))
    assert events[-1]["choices"][0]["finish_reason"] == "length"


@KINDS
@pytest.mark.parametrize("reason", [None, "abort"])
async def test_a_whole_answer_s_reason_is_one_that_clients_know(kind: type[Answer], reason: str | None) -> None:
    body = await whole(answer(kind), EngineChunk(0, "a", 1, reason))
    assert body["choices"][0]["finish_reason"] == "stop"


async def test_chat_logprobs_carry_bytes_and_alternatives() -> None:
    body = await whole(answer(ChatAnswer, logprobs=True), *WITH_CHANCES)
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
    body = await whole(answer(CompletionAnswer, logprobs=True), *WITH_CHANCES)
    assert body["choices"][0]["logprobs"] == {
        "tokens": ["né", "e", "!"],
        "token_logprobs": [-0.25, -0.5, 0.0],
        "top_logprobs": [{"né": -0.25, "no": -1.5}, {"e": -0.5}, {"!": 0.0}],
        "text_offset": [0, 2, 3],
    }


async def test_streamed_chat_logprobs_add_up_to_the_whole_s() -> None:
    body = await whole(answer(ChatAnswer, logprobs=True), *WITH_CHANCES)
    events = await streamed(answer(ChatAnswer, logprobs=True), *WITH_CHANCES)
    parts = [event["choices"][0]["logprobs"] for event in events]
    assert parts[0] is None
    assert [one for part in parts[1:] for one in part["content"]] == body["choices"][0]["logprobs"]["content"]


async def test_streamed_completion_logprobs_add_up_to_the_whole_s() -> None:
    body = await whole(answer(CompletionAnswer, logprobs=True), *WITH_CHANCES)
    events = await streamed(answer(CompletionAnswer, logprobs=True), *WITH_CHANCES)
    for name, entries in body["choices"][0]["logprobs"].items():
        assert [one for event in events for one in event["choices"][0]["logprobs"][name]] == entries


@KINDS
async def test_logprobs_that_were_not_asked_for_are_not_shown(kind: type[Answer]) -> None:
    assert (await whole(answer(kind), *WITH_CHANCES))["choices"][0]["logprobs"] is None
    assert all(event["choices"][0]["logprobs"] is None for event in await streamed(answer(kind), *WITH_CHANCES))


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
    *events, last = await streamed(answer(kind), HELLO[0], error, HELLO[1], include_usage=True)
    assert texts(events) == {0: "Hel"}
    assert list(last) == ["error"]
    assert (last["error"]["message"], last["error"]["code"]) == (message, code)
    assert not any("usage" in event for event in events)


@KINDS
async def test_an_error_makes_a_whole_answer_fail(kind: type[Answer]) -> None:
    with pytest.raises(ReplicaLostError):
        await answer(kind).whole(engine(HELLO[0], ReplicaLostError("lost")))


@KINDS
async def test_a_stream_hands_on_each_chunk_before_it_asks_for_the_next(kind: type[Answer]) -> None:
    asked: list[str] = []

    async def slow() -> AsyncIterator[EngineChunk]:
        for chunk in HELLO:
            asked.append(chunk.text)
            yield chunk

    events = answer(kind).stream(slow(), include_usage=False)
    async for event in events:
        if b"Hel" in event:
            break
    assert asked == ["Hel"]
    await events.aclose()  # type: ignore[attr-defined]
    assert asked == ["Hel"]


@KINDS
async def test_text_that_looks_like_an_event_stays_text(kind: type[Answer]) -> None:
    text = "\n\ndata: [DONE]\n\n\u2028\x00"
    events = await streamed(answer(kind), EngineChunk(0, text, 1, "stop"))
    assert texts(events) == {0: text}


async def test_streamed_offsets_count_tokens_whose_text_was_held_back() -> None:
    held = (
        EngineChunk(0, "", 1, logprobs=(TokenLogprobs(TokenLogprob("a", -1.0)),)),
        EngineChunk(0, "ab", 1, "stop", logprobs=(TokenLogprobs(TokenLogprob("b", -1.0)),)),
    )
    body = await whole(answer(CompletionAnswer, logprobs=True), *held)
    events = await streamed(answer(CompletionAnswer, logprobs=True), *held)
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

    events = answer(kind).stream(chunks(), include_usage=False)
    text = b""
    while b"hello" not in text:
        text = await anext(events)
    await events.aclose()  # type: ignore[attr-defined]
    assert closed == [True]


class Ready:
    """Chunks of which it is known how many are there already."""

    def __init__(self, *bursts: tuple[EngineChunk | Exception, ...]) -> None:
        self._bursts = [list(burst) for burst in bursts]
        self.asked = 0

    @property
    def is_ready(self) -> bool:
        return bool(self._bursts and self._bursts[0])

    def __aiter__(self) -> Ready:
        return self

    async def __anext__(self) -> EngineChunk:
        self.asked += 1
        if self._bursts and not self._bursts[0]:
            del self._bursts[0]
        if not self._bursts:
            raise StopAsyncIteration
        chunk = self._bursts[0].pop(0)
        if isinstance(chunk, Exception):
            raise chunk
        return chunk

    async def aclose(self) -> None:
        self._bursts.clear()


@KINDS
async def test_chunks_that_are_ready_leave_together_and_no_chunk_waits_for_the_next(kind: type[Answer]) -> None:
    burst, late = (EngineChunk(0, "a", 1), EngineChunk(0, "b", 1), EngineChunk(0, "c", 1)), EngineChunk(0, "d", 1)
    source = Ready(burst, (late,), (EngineChunk(0, "", 1, "stop"),))
    writes, asked = [], []
    async for written in answer(kind).stream(source, include_usage=True):
        writes.append(written)
        asked.append(source.asked)
    events = events_of(writes)
    assert asked == [3, 4, 5, 6]
    assert texts(events) == {0: "abcd"}
    assert [written.count(b"data: ") for written in writes] == [3 + (kind is ChatAnswer), 1, 1, 2]


@KINDS
async def test_what_leaves_together_is_bounded(kind: type[Answer]) -> None:
    source = Ready(tuple(EngineChunk(0, "x", 1) for _ in range(1000)))
    writes = [written async for written in answer(kind).stream(source, include_usage=False)]
    assert max(written.count(b"data: ") for written in writes) == MAX_TOGETHER
    assert texts(events_of(writes)) == {0: "x" * 1000}


@KINDS
async def test_chunks_before_an_error_are_sent(kind: type[Answer]) -> None:
    source = Ready((*HELLO[:1], ReplicaLostError("the replica was lost")))
    *events, last = events_of([written async for written in answer(kind).stream(source, include_usage=False)])
    assert texts(events) == {0: "Hel"}
    assert last["error"]["code"] == "replica_lost"


tokens = st.builds(TokenLogprob, st.text(max_size=5), st.floats(-50, 0))
logprobs = st.builds(TokenLogprobs, tokens, st.lists(tokens, max_size=3).map(tuple))
chunks = st.builds(
    EngineChunk,
    st.integers(0, 2),
    st.text(max_size=12),
    st.integers(1, 4),
    st.sampled_from([None, None, "stop", "length", "abort"]),
    st.integers(0, 64),
    st.lists(logprobs, max_size=3).map(tuple),
)


@KINDS
@given(chunks=st.lists(chunks, max_size=6), with_logprobs=st.booleans(), model=st.text(max_size=9))
def test_events_are_those_of_the_models(
    kind: type[Answer], chunks: list[EngineChunk], with_logprobs: bool, model: str
) -> None:
    """What is written around texts by hand is what the models of ``wire`` write."""
    one = kind("r1", model, 50, 3, with_logprobs)
    events = asyncio.run(streamed(one, *chunks))
    wanted = [
        *(opening_of(one, index) for index in range(3) if kind is ChatAnswer),
        *(modelled(one, chunk, chunks[:at], with_logprobs) for at, chunk in enumerate(chunks)),
    ]
    assert events == [json.loads(event.to_json()) for event in wanted]
    assert [list(event) for event in events] == [list(json.loads(event.to_json())) for event in wanted]


def opening_of(one: Answer, index: int) -> ChatCompletionChunk:
    choice = ChatChunkChoice(index=index, delta=ChatDelta(role="assistant", content=""))
    return ChatCompletionChunk(id=one.id, created=one.created, model=one.model, choices=[choice])


def modelled(
    one: Answer, chunk: EngineChunk, before: list[EngineChunk], with_logprobs: bool
) -> ChatCompletionChunk | Completion:
    """Return a chunk as its model."""
    reason: Any = "stop" if chunk.finish_reason == "abort" else chunk.finish_reason
    common: dict[str, Any] = {"index": chunk.index, "finish_reason": reason}
    fields: dict[str, Any] = {"id": one.id, "created": one.created, "model": one.model}
    if isinstance(one, ChatAnswer):
        content = [
            ChatTokenLogprob(
                **top(token.chosen), top_logprobs=[ChatTopLogprob(**top(other)) for other in token.alternatives]
            )
            for token in chunk.logprobs
        ]
        shown = ChatLogprobs(content=content) if with_logprobs else None
        choice = ChatChunkChoice(delta=ChatDelta(content=chunk.text), logprobs=shown, **common)
        return ChatCompletionChunk(choices=[choice], **fields)
    earlier = [token for other in before if other.index == chunk.index for token in other.logprobs]
    offset = len("".join(token.chosen.token for token in earlier))
    names = [token.chosen.token for token in chunk.logprobs]
    found = CompletionLogprobs(
        tokens=names,
        token_logprobs=[token.chosen.logprob for token in chunk.logprobs],
        top_logprobs=[
            {other.token: other.logprob for other in (*token.alternatives, token.chosen)} for token in chunk.logprobs
        ],
        text_offset=[offset + len("".join(names[:place])) for place in range(len(names))],
    )
    written = CompletionChoice(text=chunk.text, logprobs=found if with_logprobs else None, **common)
    return Completion(choices=[written], **fields)


def top(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.token, "logprob": token.logprob, "bytes": list(token.token.encode())}


@KINDS
@pytest.mark.parametrize("is_streamed", [False, True])
async def test_an_impossible_token_has_the_least_log_probability(kind: type[Answer], is_streamed: bool) -> None:
    """JSON has no infinity."""
    chunk = EngineChunk(0, "x", 1, "stop", logprobs=(TokenLogprobs(TokenLogprob("x", -math.inf)),))
    one = answer(kind, logprobs=True)
    found = (await streamed(one, chunk))[-1] if is_streamed else await whole(one, chunk)
    assert "-9999.0" in json.dumps(found["choices"][0]["logprobs"])
