"""Generations as OpenAI's answers, whole or streamed, for both endpoints.

A whole answer is written once, by the models of :mod:`aloraserve.wire`; a streamed one in the form of its transport.
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
from aloraserve.wire import Usage
from aloraserve.wire.responses import ResponsePart, SavingsUsage
from aloraserve_services.gateway.answers.events import closing_source
from aloraserve_services.gateway.answers.forms import SSE, StreamForm

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
    """What stands around the text in a streamed choice's event."""
    form: StreamForm = SSE
    """What a streamed answer is written in."""

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
        self.count = choices
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
        return (await self.finished(chunks)).to_json()

    async def finished(self, chunks: AsyncIterator[EngineChunk]) -> ResponsePart:
        """Return the finished answer."""
        choices = [WholeChoice() for _ in range(self.count)]
        async with closing_source(chunks):
            async for chunk in chunks:
                self._note(chunk)
                choice = choices[chunk.index]
                choice.texts.append(chunk.text)
                choice.logprobs += chunk.logprobs
                choice.finish_reason = chunk.finish_reason or choice.finish_reason
        return await self._whole(choices)

    async def stream(self, chunks: AsyncIterator[EngineChunk], *, include_usage: bool) -> AsyncGenerator[bytes]:
        """Yield parts of the answer in its form, those together that can be had without waiting.

        An error after the first one ends the answer as its form has it.

        Args:
            chunks: of the answer; while it has a true ``is_ready`` its next chunk is there already.
            include_usage: whether the last event is the usage.

        Raises:
            Exception: the answer is cut short, and its form says that by raising.
        """
        events, failed = self._openings(), None
        write = self._chunk_writer()
        texts: list[str] | None = None if self._later is None else []
        try:
            async with closing_source(chunks):
                async for chunk in chunks:
                    self._note(chunk)
                    if texts is not None:
                        texts.append(chunk.text)
                    if (chunk.text or chunk.tokens or chunk.finish_reason) and (event := write(chunk)):
                        events.append(event)
                    if events and not (getattr(chunks, "is_ready", False) and len(events) < MAX_TOGETHER):
                        yield b"".join(events)
                        events.clear()
            if self._later is not None:
                async with closing_source(self._later("".join(texts or ()))) as later:
                    async for added in later:
                        yield b"".join([*events, added])
                        events.clear()
            if include_usage:
                events.append(self.form.part(self._closing()))
        except Exception as error:  # noqa: BLE001
            # Whatever it is, the client learns of it in the answer's form.
            log.warning("answer_cut_short", answer=self.id, cause=type(error).__name__)
            failed = error
        events.append(self._ending(failed))
        if last := b"".join(events):
            yield last
        if failed is not None and self.form.raises:
            raise failed

    def _ending(self, error: Exception | None) -> bytes:
        """Return the end of a streamed answer, which an error cut short if there is one."""
        return self.form.ending(error)

    @property
    def usage(self) -> Usage:
        """Token counts so far."""
        return Usage.of(self._prompt_tokens, self.completion_tokens, sum(self._cached_tokens), self._savings)

    def _note(self, chunk: EngineChunk) -> None:
        self.completion_tokens += chunk.tokens
        prompt = chunk.index * len(self._cached_tokens) // self.count
        if chunk.cached_tokens > self._cached_tokens[prompt]:
            self._cached_tokens[prompt] = chunk.cached_tokens

    def _chunk_writer(self) -> Callable[[EngineChunk], bytes]:
        """Return what writes chunks."""
        choice = self.form.choice_writer(self)
        if not self._with_logprobs:
            return lambda chunk: choice(chunk, None)
        characters = [0] * self.count

        def write(chunk: EngineChunk) -> bytes:
            logprobs = self._logprobs(chunk.logprobs, characters[chunk.index])
            characters[chunk.index] += sum(len(token.chosen.token) for token in chunk.logprobs)
            return choice(chunk, logprobs)

        return write

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
