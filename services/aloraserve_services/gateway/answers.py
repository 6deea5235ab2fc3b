"""Generations as OpenAI's answers, whole or streamed, for both endpoints.

A whole answer is written once, by the models of :mod:`aloraserve.wire`. Of a streamed one each event is what is the
same in all of them, made in the beginning, around a text and perhaps log-probabilities, which C writes.
"""

from __future__ import annotations

import contextlib
import functools
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeVar, cast

import msgspec
import structlog

from aloraserve.serving.engine_messages import EngineChunk, TokenLogprob, TokenLogprobs
from aloraserve.serving.generation import Generation
from aloraserve.serving.request import GenerationRequest
from aloraserve.wire import Usage, reply_for
from aloraserve.wire.chat import (
    AssistantMessage,
    ChatChoice,
    ChatChunkChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatDelta,
    ChatLogprobs,
)
from aloraserve.wire.completions import Completion, CompletionChoice, CompletionLogprobs
from aloraserve.wire.intrinsic_results import GuardResult, IntrinsicResult
from aloraserve.wire.responses import ResponsePart, SavingsUsage

log = structlog.get_logger(__name__)

FinishReason = Literal["stop", "length"]
Part = TypeVar("Part")
Look = Callable[[str], AsyncIterator[tuple[int, IntrinsicResult]]]
"""Has intrinsics look at an answer's text; yields what each found with its place in the request, as it does."""

MAX_TOGETHER = 64
"""Chunks that leave in one write at most."""
LEAST_LOGPROB = -9999.0
"""What stands for an impossible token, as in OpenAI's API: JSON has no infinity."""

_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class _Choice:
    """A choice of a whole answer."""

    texts: list[str] = field(default_factory=list)
    finish_reason: str | None = None
    logprobs: list[TokenLogprobs] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.texts)


class Answer(ABC):
    """Writes one answer; a subclass knows one endpoint's shapes.

    Args:
        request_id: becomes part of the answer's id.
        model: the name that the client asked for.
        prompt_tokens: length of the prompt.
        choices: how many choices were asked for.
        logprobs: whether log-probabilities were asked for.
        savings: for the usage.
        prompts: whose choices these are, as many of each; the first prompt's come first.
    """

    prefix = ""
    part_kind = ""
    before_text = b""
    after_text = b""
    """What stands around the text in a streamed choice."""

    def __init__(
        self,
        request_id: str,
        model: str,
        prompt_tokens: int,
        choices: int,
        logprobs: bool,
        savings: SavingsUsage | None = None,
        prompts: int = 1,
    ) -> None:
        self.id = f"{self.prefix}-{request_id}"
        self.model = model
        self.created = int(time.time())
        self.completion_tokens = 0
        self._prompt_tokens = prompt_tokens
        self._cached_tokens = [0] * prompts
        self._savings = savings
        self._with_logprobs = logprobs
        self._count = choices
        self._later: Callable[[str], AsyncIterator[bytes]] | None = None
        """Yields the events that follow a streamed answer's text."""

    @classmethod
    def of(cls, generation: Generation) -> Self:
        """Return the writer of a generation's answer."""
        savings = generation.savings
        return cls.to(generation.request, SavingsUsage.of(savings, generation.ttft_s) if savings else None)

    @classmethod
    def to(cls, request: GenerationRequest, savings: SavingsUsage | None = None) -> Self:
        """Return the writer of the answer to a request.

        Args:
            request: to answer.
            savings: for the usage.
        """
        return cls(
            request.id,
            request.model,
            request.prompt_tokens,
            request.sampling.n,
            request.sampling.logprobs is not None,
            savings,
        )

    @classmethod
    def to_all(cls, requests: Sequence[GenerationRequest]) -> Self:
        """Return the writer of the answer to several prompts; the first one's id is the answer's."""
        first = requests[0]
        return cls(
            first.id,
            first.model,
            sum(request.prompt_tokens for request in requests),
            first.sampling.n * len(requests),
            first.sampling.logprobs is not None,
            prompts=len(requests),
        )

    async def whole(self, chunks: AsyncIterator[EngineChunk]) -> str:
        """Return the JSON of the finished answer."""
        choices = [_Choice() for _ in range(self._count)]
        async with _closing_source(chunks):
            async for chunk in chunks:
                self._note(chunk)
                choice = choices[chunk.index]
                choice.texts.append(chunk.text)
                choice.logprobs += chunk.logprobs
                choice.finish_reason = chunk.finish_reason or choice.finish_reason
        return (await self._whole(choices)).to_json()

    async def stream(self, chunks: AsyncIterator[EngineChunk], *, include_usage: bool) -> AsyncGenerator[bytes]:
        """Yield server-sent events, those together that can be had without waiting.

        An error after the first one becomes the last event.

        Args:
            chunks: of the answer; while it has a true ``is_ready`` its next chunk is there already.
            include_usage: whether the last event is the usage.
        """
        events = self._openings()
        write = self._chunk_writer()
        texts: list[str] | None = None if self._later is None else []
        try:
            async with _closing_source(chunks):
                async for chunk in chunks:
                    self._note(chunk)
                    if texts is not None:
                        texts.append(chunk.text)
                    if chunk.text or chunk.tokens or chunk.finish_reason:
                        events.append(write(chunk))
                    if events and not (getattr(chunks, "is_ready", False) and len(events) < MAX_TOGETHER):
                        yield b"".join(events)
                        events.clear()
            if self._later is not None:
                async with _closing_source(self._later("".join(texts or ()))) as later:
                    async for event in later:
                        yield b"".join([*events, event])
                        events.clear()
            if include_usage:
                events.append(_event(self._closing().to_json().encode()))
        except Exception as error:  # noqa: BLE001
            # The status is sent: whatever happens now, the client learns it from the stream alone.
            log.warning("answer_cut_short", answer=self.id, cause=type(error).__name__)
            events.append(_event(_encode(reply_for(error).body)))
        events.append(_event(b"[DONE]"))
        yield b"".join(events)

    @property
    def usage(self) -> Usage:
        """Token counts so far."""
        return Usage.of(self._prompt_tokens, self.completion_tokens, sum(self._cached_tokens), self._savings)

    def _note(self, chunk: EngineChunk) -> None:
        self.completion_tokens += chunk.tokens
        prompt = chunk.index * len(self._cached_tokens) // self._count
        if chunk.cached_tokens > self._cached_tokens[prompt]:
            self._cached_tokens[prompt] = chunk.cached_tokens

    def _beginnings(self, before_text: bytes) -> list[bytes]:
        """Return what stands before the text in the events of each choice."""
        fields = {"id": self.id, "object": self.part_kind, "created": self.created, "model": self.model}
        head = b"data: " + _encode(fields)[:-1] + b',"choices":[{"index":'
        return [b"%b%d,%b" % (head, index, before_text) for index in range(self._count)]

    def _chunk_writer(self) -> Callable[[EngineChunk], bytes]:
        """Return what writes chunks as events."""
        beginnings, after_text = self._beginnings(self.before_text), self.after_text
        endings = _plain_endings(after_text)
        characters = [0] * self._count

        def write(chunk: EngineChunk) -> bytes:
            ending = endings.get(chunk.finish_reason) or endings["stop"]
            return beginnings[chunk.index] + _encode(chunk.text) + ending

        def write_with_logprobs(chunk: EngineChunk) -> bytes:
            logprobs = _encode(self._logprobs(chunk.logprobs, characters[chunk.index]))
            characters[chunk.index] += sum(len(token.chosen.token) for token in chunk.logprobs)
            ending = after_text + _ending(logprobs, _reason(chunk.finish_reason))
            return beginnings[chunk.index] + _encode(chunk.text) + ending

        return write_with_logprobs if self._with_logprobs else write

    @abstractmethod
    async def _whole(self, choices: list[_Choice]) -> ResponsePart: ...

    @abstractmethod
    def _openings(self) -> list[bytes]: ...

    @abstractmethod
    def _closing(self) -> ResponsePart: ...

    @abstractmethod
    def _logprobs(self, logprobs: Sequence[TokenLogprobs], offset: int) -> dict[str, Any]:
        """Return log-probabilities in the endpoint's shape.

        Args:
            logprobs: of tokens.
            offset: how many characters the choice's tokens before them have.
        """


class ChatAnswer(Answer):
    """``/v1/chat/completions``."""

    prefix = "chatcmpl"
    part_kind = "chat.completion.chunk"
    before_text = b'"delta":{"content":'
    after_text = b"}"
    guards: Sequence[GuardResult] = ()
    """What let the chat pass."""
    _look: Look | None = None

    def look_with(self, look: Look) -> None:
        """Have intrinsics look at the answer's text once it is there; the answer carries what they find."""
        self._look = look
        self._later = functools.partial(self._found, look)

    async def _whole(self, choices: list[_Choice]) -> ResponsePart:
        found = await self._results(choices[0].text)
        return ChatCompletion(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=[
                ChatChoice(
                    index=index,
                    message=AssistantMessage(content=choice.text),
                    logprobs=ChatLogprobs(**self._logprobs(choice.logprobs, 0)) if self._with_logprobs else None,
                    finish_reason=_reason(choice.finish_reason) or "stop",
                )
                for index, choice in enumerate(choices)
            ],
            usage=self.usage,
            guard=[*self.guards] or None,
            intrinsics=found,
        )

    def _openings(self) -> list[bytes]:
        opening = b'"delta":{"role":"assistant","content":""}' + _ending(b"null", None)
        events = self._beginnings(opening)
        return [*events, self._addition(guard=[*self.guards])] if self.guards else events

    async def _found(self, look: Look, text: str) -> AsyncGenerator[bytes]:
        """Yield an event for what each intrinsic finds in the answer, as it does."""
        async with _closing_source(look(text)) as results:
            async for _, result in results:
                yield self._addition(intrinsics=[result])

    async def _results(self, text: str) -> list[IntrinsicResult] | None:
        """Return what intrinsics find in the answer, in the request's order; None if there are none."""
        if self._look is None:
            return None
        found = {number: result async for number, result in self._look(text)}
        return [found[number] for number in sorted(found)]

    def _addition(self, **fields: Any) -> bytes:
        """Return an event with an extension and a choice that adds nothing, as clients take a chunk to have one."""
        nothing = ChatChunkChoice(index=0, delta=ChatDelta())
        chunk = ChatCompletionChunk(id=self.id, created=self.created, model=self.model, choices=[nothing], **fields)
        return _event(chunk.to_json().encode())

    def _closing(self) -> ResponsePart:
        return ChatCompletionChunk(id=self.id, created=self.created, model=self.model, choices=[], usage=self.usage)

    def _logprobs(self, logprobs: Sequence[TokenLogprobs], offset: int) -> dict[str, Any]:
        return {
            "content": [
                {**_top(token.chosen), "top_logprobs": [_top(other) for other in token.alternatives]}
                for token in logprobs
            ]
        }


class CompletionAnswer(Answer):
    """``/v1/completions``."""

    prefix = "cmpl"
    part_kind = "text_completion"
    before_text = b'"text":'

    async def _whole(self, choices: list[_Choice]) -> ResponsePart:
        return self._completion(
            [
                CompletionChoice(
                    index=index,
                    text=choice.text,
                    logprobs=CompletionLogprobs(**self._logprobs(choice.logprobs, 0)) if self._with_logprobs else None,
                    finish_reason=_reason(choice.finish_reason) or "stop",
                )
                for index, choice in enumerate(choices)
            ]
        )

    def _openings(self) -> list[bytes]:
        return []

    def _closing(self) -> ResponsePart:
        return self._completion([])

    def _completion(self, choices: list[CompletionChoice]) -> ResponsePart:
        return Completion(id=self.id, created=self.created, model=self.model, choices=choices, usage=self.usage)

    def _logprobs(self, logprobs: Sequence[TokenLogprobs], offset: int) -> dict[str, Any]:
        offsets = []
        for token in logprobs:
            offsets.append(offset)
            offset += len(token.chosen.token)
        return {
            "tokens": [token.chosen.token for token in logprobs],
            "token_logprobs": [_finite(token.chosen) for token in logprobs],
            "top_logprobs": [
                {other.token: _finite(other) for other in (*token.alternatives, token.chosen)} for token in logprobs
            ],
            "text_offset": offsets,
        }


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


@functools.cache
def _plain_endings(after_text: bytes) -> Mapping[str | None, bytes]:
    """Return what stands after the text where no log-probabilities were asked for, by the reason of the end."""
    reasons: tuple[FinishReason | None, ...] = (None, "stop", "length")
    return {reason: after_text + _ending(b"null", reason) for reason in reasons}


def _ending(logprobs: bytes, finish_reason: FinishReason | None) -> bytes:
    """Return what stands in an event after the text of its one choice."""
    return b',"logprobs":' + logprobs + b',"finish_reason":' + _encode(finish_reason) + b"}]}\n\n"


def _top(token: TokenLogprob) -> dict[str, object]:
    return {"token": token.token, "logprob": _finite(token), "bytes": token.utf8}


def _finite(token: TokenLogprob) -> float:
    return max(LEAST_LOGPROB, token.logprob)


def _reason(finish_reason: str | None) -> FinishReason | None:
    if finish_reason is None:
        return None
    return cast(FinishReason, finish_reason if finish_reason in ("stop", "length") else "stop")


def _closing_source(source: AsyncIterator[Part]) -> contextlib.aclosing[AsyncGenerator[Part]]:
    """Return a context that closes a source, which aborts what is still being generated."""
    return contextlib.aclosing(cast("AsyncGenerator[Part]", source))
