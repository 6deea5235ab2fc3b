"""How a stream is written: what leaves together, and that its events are those of the models."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.answer_events import answer_to, events_of, texts

from aloraserve.errors import ReplicaLostError
from aloraserve.serving.engine_messages import EngineChunk, TokenLogprob, TokenLogprobs
from aloraserve.wire import ChatCompletionChunk, Completion
from aloraserve.wire.chat_answers import ChatChunkChoice, ChatDelta, ChatLogprobs, ChatTokenLogprob, ChatTopLogprob
from aloraserve.wire.completions import CompletionChoice, CompletionLogprobs
from aloraserve.wire.intrinsic_results import IntrinsicResult
from aloraserve.wire.messages import ChatMessage
from aloraserve_services.gateway.answers import MAX_TOGETHER, Answer, ChatAnswer, CompletionAnswer

KINDS = pytest.mark.parametrize("kind", [ChatAnswer, CompletionAnswer])


async def events_from(one: Answer, source: Ready) -> list[Any]:
    return events_of([written async for written in one.stream(source, include_usage=False)])


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
    async for written in answer_to(kind).stream(source, include_usage=True):
        writes.append(written)
        asked.append(source.asked)
    events = events_of(writes)
    assert asked == [3, 4, 5, 6]
    assert texts(events) == {0: "abcd"}
    assert [written.count(b"data: ") for written in writes] == [3 + (kind is ChatAnswer), 1, 1, 2]


@KINDS
async def test_what_leaves_together_is_bounded(kind: type[Answer]) -> None:
    source = Ready(tuple(EngineChunk(0, "x", 1) for _ in range(1000)))
    writes = [written async for written in answer_to(kind).stream(source, include_usage=False)]
    assert max(written.count(b"data: ") for written in writes) == MAX_TOGETHER
    assert texts(events_of(writes)) == {0: "x" * 1000}


@KINDS
async def test_chunks_before_an_error_are_sent(kind: type[Answer]) -> None:
    source = Ready((EngineChunk(0, "Hel", 1), ReplicaLostError("the replica was lost")))
    *events, last = await events_from(answer_to(kind), source)
    assert texts(events) == {0: "Hel"}
    assert last["error"]["code"] == "replica_lost"


tokens = st.builds(TokenLogprob, st.text(max_size=5), st.floats(-50, 0), st.none(), st.just(7), st.just(1))
logprobs = st.builds(TokenLogprobs, tokens, st.lists(tokens, max_size=3).map(tuple))
chunks = st.builds(
    EngineChunk,
    st.integers(0, 2),
    st.text(max_size=12),
    st.integers(1, 4),
    st.sampled_from([None, None, "stop", "length", "abort"]),
    st.integers(0, 64),
    st.lists(logprobs, max_size=3).map(tuple),
    stop_reason=st.none() | st.integers(0, 9) | st.text(max_size=3),
)


@KINDS
@given(chunks=st.lists(chunks, max_size=6), with_logprobs=st.booleans(), model=st.text(max_size=9))
def test_events_are_those_of_the_models(
    kind: type[Answer], chunks: list[EngineChunk], with_logprobs: bool, model: str
) -> None:
    """What is written around texts by hand is what the models of ``wire`` write."""
    one = answer_to(kind, 3, with_logprobs, model=model)
    events = asyncio.run(events_from(one, Ready(tuple(chunks))))
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
    common: dict[str, Any] = {"index": chunk.index, "finish_reason": reason, "stop_reason": chunk.stop_reason}
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
    one = answer_to(kind, logprobs=True)
    found = (
        (await events_from(one, Ready((chunk,))))[-1] if is_streamed else json.loads(await one.whole(Ready((chunk,))))
    )
    assert "-9999.0" in json.dumps(found["choices"][0]["logprobs"])


async def test_a_stream_that_is_closed_amid_results_ends_what_looks_for_them() -> None:
    closed = asyncio.Event()

    async def look(said: ChatMessage) -> AsyncIterator[tuple[int, IntrinsicResult]]:
        try:
            for number in range(2):
                yield number, IntrinsicResult(id="r1-1", name="safety", status="ok", value=said.text, time_ms=1.0)
        finally:
            closed.set()

    one = answer_to(ChatAnswer)
    one.look_with(look)
    stream = one.stream(Ready((EngineChunk(0, "yes", 1, "stop"),)), include_usage=False)
    written = [await anext(stream) for _ in range(2)]
    last = json.loads(written[-1].split(b"data: ")[-1])
    assert last["intrinsics"][0]["value"] == "yes"
    assert not closed.is_set()
    await stream.aclose()
    assert closed.is_set()
