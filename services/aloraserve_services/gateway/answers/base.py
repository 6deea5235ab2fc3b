"""Generations as OpenAI's answers, whole or streamed, for both endpoints.

A whole answer is written once, by the models of :mod:`aloraserve.wire`; a streamed one in the form of its transport.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import structlog

from aloraserve.serving.engine_messages import EngineChunk, TokenLogprobs
from aloraserve.serving.generation import Generation
from aloraserve.serving.request import GenerationRequest
from aloraserve.wire import Usage
from aloraserve.wire.responses import PromptLogprob, ResponsePart, SavingsUsage
from aloraserve_services.gateway.answers.events import closing_source, named_by_ids, prompt_logprobs
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
    stop_reason: int | str | None = None
    token_ids: list[int] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.texts)


class Answer(ABC):
    """Writes one answer; a subclass knows one endpoint's shapes.

    Args:
        requests: that are answered, one per prompt, alike in all but that; the first one's id is the answer's.
        savings: for the usage.
    """

    prefix = ""
    part_kind = ""
    before_text = b""
    after_text = b""
    """What stands around the text in a streamed choice's event."""
    form: StreamForm = SSE
    """What a streamed answer is written in."""
    fingerprint: str | None = None
    """Of the platform that answers: with another one the same seed may give another text."""

    def __init__(self, requests: Sequence[GenerationRequest], savings: SavingsUsage | None = None) -> None:
        first = requests[0]
        self.id = f"{self.prefix}-{first.id}"
        self.model = first.model
        self.created = int(time.time())
        self.count = first.sampling.n * len(requests)
        self.extras = first.extras
        self._requests = requests
        self._savings = savings
        self._with_logprobs = first.sampling.logprobs is not None
        self._cached_tokens = [0] * len(requests)
        self._tokens = [0] * self.count
        self._prompt_logprobs: list[Sequence[TokenLogprobs | None]] = [()] * len(requests)
        self._later: Callable[[str], AsyncIterator[bytes]] | None = None
        """Yields the events that follow a streamed answer's text."""

    @classmethod
    def of(cls, generation: Generation) -> Self:
        """Return the writer of a generation's answer."""
        savings = generation.savings
        return cls([generation.request], SavingsUsage.of(savings, generation.ttft_s) if savings else None)

    async def whole(self, chunks: AsyncIterator[EngineChunk]) -> str:
        """Return the JSON of the finished answer."""
        return (await self.finished(chunks)).to_json()

    async def finished(self, chunks: AsyncIterator[EngineChunk]) -> ResponsePart:
        """Return the finished answer."""
        choices = [WholeChoice() for _ in range(self.count)]
        async with closing_source(chunks):
            async for chunk in chunks:
                self._note(chunk)
                shown = self._shown(chunk)
                choice = choices[chunk.index]
                choice.texts.append(shown.text)
                choice.logprobs += shown.logprobs
                choice.token_ids += shown.token_ids
                choice.finish_reason = chunk.finish_reason or choice.finish_reason
                choice.stop_reason = chunk.stop_reason if chunk.stop_reason is not None else choice.stop_reason
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
                    if (chunk.text or chunk.tokens or chunk.finish_reason) and (event := write(self._shown(chunk))):
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
        events.append(self.ending(failed))
        if last := b"".join(events):
            yield last
        if failed is not None and self.form.raises:
            raise failed

    def ending(self, error: Exception | None) -> bytes:
        """Return the end of a streamed answer, which an error cut short if there is one."""
        return self.form.ending(error)

    @property
    def usage(self) -> Usage:
        """Token counts so far."""
        prompt_tokens = sum(request.prompt_tokens for request in self._requests)
        return Usage.of(prompt_tokens, self.completion_tokens, sum(self._cached_tokens), self._savings)

    @property
    def completion_tokens(self) -> int:
        """Generated tokens so far, of all choices."""
        return sum(self._tokens)

    def choice_fields(self, chunk: EngineChunk) -> dict[str, Any]:
        """Return what a chunk of a stream has in its choice, beside the usual."""
        fields: dict[str, Any] = {} if chunk.stop_reason is None else {"stop_reason": chunk.stop_reason}
        return fields | {"token_ids": chunk.token_ids} if self.extras.token_ids else fields

    def event_fields(self, choice: int) -> dict[str, Any]:
        """Return what an event of a choice has beside it: the usage so far, of the choice, where that is asked for."""
        if not self.extras.running_usage:
            return {}
        prompt_tokens, tokens = self._request_of(choice).prompt_tokens, self._tokens[choice]
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": tokens, "total_tokens": prompt_tokens + tokens}
        return {"usage": usage}

    def opening_fields(self, choice: int) -> dict[str, Any]:
        """Return what the first event of a choice has beside it."""
        return {"prompt_token_ids": self._request_of(choice).token_ids} if self.extras.token_ids else {}

    def _request_of(self, choice: int) -> GenerationRequest:
        return self._requests[self._prompt_of(choice)]

    def _prompt_of(self, choice: int) -> int:
        return choice * len(self._requests) // self.count

    def _note(self, chunk: EngineChunk) -> None:
        self._tokens[chunk.index] += chunk.tokens
        prompt = self._prompt_of(chunk.index)
        if chunk.cached_tokens > self._cached_tokens[prompt]:
            self._cached_tokens[prompt] = chunk.cached_tokens
        if chunk.prompt_logprobs:
            self._prompt_logprobs[prompt] = chunk.prompt_logprobs

    def _shown(self, chunk: EngineChunk) -> EngineChunk:
        """Return a chunk as the answer shows it."""
        return replace(chunk, logprobs=named_by_ids(chunk.logprobs)) if self.extras.tokens_as_ids else chunk

    def _token_ids_of(self, choice: WholeChoice) -> list[int] | None:
        return choice.token_ids if self.extras.token_ids else None

    def _prompt_ids_of(self, choice: int) -> list[int] | None:
        return self._request_of(choice).token_ids if self.extras.token_ids else None

    def _prompt_logprobs_of(self, choice: int) -> list[dict[int, PromptLogprob] | None] | None:
        found = self._prompt_logprobs[self._prompt_of(choice)]
        return prompt_logprobs(found) if found else None

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
