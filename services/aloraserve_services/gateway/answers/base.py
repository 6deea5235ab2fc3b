"""Generations as OpenAI's answers, whole or streamed, for both endpoints.

A whole answer is written once, by the models of :mod:`aloraserve.wire`. Of a streamed one each event is what is the
same in all of them, made in the beginning, around a text and perhaps log-probabilities, which C writes.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import structlog

from aloraserve.serving.engine_messages import EngineChunk, TokenLogprobs
from aloraserve.serving.generation import Generation
from aloraserve.serving.request import GenerationRequest
from aloraserve.wire import Usage, reply_for
from aloraserve.wire.responses import ResponsePart, SavingsUsage
from aloraserve_services.gateway.answers.events import (
    choice_ending,
    closing_source,
    encode,
    plain_endings,
    reason_of,
    sse_event,
)

log = structlog.get_logger(__name__)

MAX_TOGETHER = 64
"""Chunks that leave in one write at most."""


@dataclass(slots=True)
class WholeChoice:
    """A choice of a whole answer."""

    texts: list[str] = field(default_factory=list)
    finish_reason: str | None = None
    logprobs: list[TokenLogprobs] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All of it."""
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
        choices = [WholeChoice() for _ in range(self._count)]
        async with closing_source(chunks):
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
            async with closing_source(chunks):
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
                async with closing_source(self._later("".join(texts or ()))) as later:
                    async for event in later:
                        yield b"".join([*events, event])
                        events.clear()
            if include_usage:
                events.append(sse_event(self._closing().to_json().encode()))
        except Exception as error:  # noqa: BLE001
            # The status is sent: whatever happens now, the client learns it from the stream alone.
            log.warning("answer_cut_short", answer=self.id, cause=type(error).__name__)
            events.append(sse_event(encode(reply_for(error).body)))
        events.append(sse_event(b"[DONE]"))
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
        head = b"data: " + encode(fields)[:-1] + b',"choices":[{"index":'
        return [b"%b%d,%b" % (head, index, before_text) for index in range(self._count)]

    def _chunk_writer(self) -> Callable[[EngineChunk], bytes]:
        """Return what writes chunks as events."""
        beginnings, after_text = self._beginnings(self.before_text), self.after_text
        endings = plain_endings(after_text)
        characters = [0] * self._count

        def write(chunk: EngineChunk) -> bytes:
            ending = endings.get(chunk.finish_reason) or endings["stop"]
            return beginnings[chunk.index] + encode(chunk.text) + ending

        def write_with_logprobs(chunk: EngineChunk) -> bytes:
            logprobs = encode(self._logprobs(chunk.logprobs, characters[chunk.index]))
            characters[chunk.index] += sum(len(token.chosen.token) for token in chunk.logprobs)
            ending = after_text + choice_ending(logprobs, reason_of(chunk.finish_reason))
            return beginnings[chunk.index] + encode(chunk.text) + ending

        return write_with_logprobs if self._with_logprobs else write

    @abstractmethod
    async def _whole(self, choices: list[WholeChoice]) -> ResponsePart: ...

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
