"""Generations as OpenAI's answers, whole or streamed, for both endpoints."""

from __future__ import annotations

import contextlib
import json
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Literal, Self, cast

import structlog

from aloraserve.serving.engine_messages import EngineChunk, TokenLogprob, TokenLogprobs
from aloraserve.serving.generation import Generation
from aloraserve.wire import Usage, reply_for
from aloraserve.wire.chat import (
    AssistantMessage,
    ChatChoice,
    ChatChunkChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatDelta,
    ChatLogprobs,
    ChatTokenLogprob,
    ChatTopLogprob,
)
from aloraserve.wire.completions import Completion, CompletionChoice, CompletionLogprobs
from aloraserve.wire.responses import ResponsePart, SavingsUsage

log = structlog.get_logger(__name__)

FinishReason = Literal["stop", "length"]


@dataclass(slots=True)
class _Choice:
    text: str = ""
    finish_reason: str | None = None
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    token_characters: int = 0


class Answer(ABC):
    """Writes one answer; a subclass knows one endpoint's shapes.

    Args:
        request_id: becomes part of the answer's id.
        model: the name that the client asked for.
        prompt_tokens: length of the prompt.
        choices: how many choices were asked for.
        logprobs: whether log-probabilities were asked for.
        savings: for the usage.
    """

    prefix = ""

    def __init__(
        self,
        request_id: str,
        model: str,
        prompt_tokens: int,
        choices: int,
        logprobs: bool,
        savings: SavingsUsage | None = None,
    ) -> None:
        self.id = f"{self.prefix}-{request_id}"
        self.model = model
        self.created = int(time.time())
        self.completion_tokens = 0
        self._prompt_tokens = prompt_tokens
        self._cached_tokens = 0
        self._savings = savings
        self._with_logprobs = logprobs
        self._choices = [_Choice() for _ in range(choices)]

    @classmethod
    def of(cls, generation: Generation) -> Self:
        """Return the writer of a generation's answer."""
        request, savings = generation.request, generation.savings
        return cls(
            request.id,
            request.model,
            request.prompt_tokens,
            request.sampling.n,
            request.sampling.logprobs is not None,
            SavingsUsage.of(savings, generation.ttft_s) if savings else None,
        )

    async def whole(self, chunks: AsyncIterator[EngineChunk]) -> str:
        """Return the JSON of the finished answer."""
        async with _closing_source(chunks):
            async for chunk in chunks:
                self._add(chunk)
        return self._whole(self._choices).to_json()

    async def stream(self, chunks: AsyncIterator[EngineChunk], *, include_usage: bool) -> AsyncIterator[str]:
        """Yield server-sent events; an error after the first one becomes the last event."""
        try:
            async with _closing_source(chunks):
                for opening in self._openings():
                    yield _event(opening.to_json())
                async for chunk in chunks:
                    self._add(chunk)
                    if chunk.text or chunk.tokens or chunk.finish_reason:
                        yield _event(self._part(chunk).to_json())
            if include_usage:
                yield _event(self._closing().to_json())
        except Exception as error:  # noqa: BLE001
            # The status is sent: whatever happens now, the client learns it from the stream alone.
            log.warning("answer_cut_short", answer=self.id, cause=type(error).__name__)
            yield _event(json.dumps(reply_for(error).body))
        yield _event("[DONE]")

    @property
    def usage(self) -> Usage:
        """Token counts so far."""
        return Usage.of(self._prompt_tokens, self.completion_tokens, self._cached_tokens, self._savings)

    def _add(self, chunk: EngineChunk) -> None:
        choice = self._choices[chunk.index]
        choice.text += chunk.text
        choice.finish_reason = chunk.finish_reason or choice.finish_reason
        choice.logprobs += chunk.logprobs
        choice.token_characters += sum(len(token.chosen.token) for token in chunk.logprobs)
        self.completion_tokens += chunk.tokens
        self._cached_tokens = max(self._cached_tokens, chunk.cached_tokens)

    @abstractmethod
    def _whole(self, choices: list[_Choice]) -> ResponsePart: ...

    @abstractmethod
    def _openings(self) -> list[ResponsePart]: ...

    @abstractmethod
    def _part(self, chunk: EngineChunk) -> ResponsePart: ...

    @abstractmethod
    def _closing(self) -> ResponsePart: ...


class ChatAnswer(Answer):
    """``/v1/chat/completions``."""

    prefix = "chatcmpl"

    def _whole(self, choices: list[_Choice]) -> ResponsePart:
        return ChatCompletion(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=[
                ChatChoice(
                    index=index,
                    message=AssistantMessage(content=choice.text),
                    logprobs=self._logprobs(choice.logprobs),
                    finish_reason=_reason(choice.finish_reason) or "stop",
                )
                for index, choice in enumerate(choices)
            ],
            usage=self.usage,
        )

    def _openings(self) -> list[ResponsePart]:
        first = ChatDelta(role="assistant", content="")
        return [self._chunk([ChatChunkChoice(index=index, delta=first)]) for index in range(len(self._choices))]

    def _part(self, chunk: EngineChunk) -> ResponsePart:
        choice = ChatChunkChoice(
            index=chunk.index,
            delta=ChatDelta(content=chunk.text),
            logprobs=self._logprobs(list(chunk.logprobs)),
            finish_reason=_reason(chunk.finish_reason),
        )
        return self._chunk([choice])

    def _closing(self) -> ResponsePart:
        return self._chunk([], self.usage)

    def _chunk(self, choices: list[ChatChunkChoice], usage: Usage | None = None) -> ResponsePart:
        return ChatCompletionChunk(id=self.id, created=self.created, model=self.model, choices=choices, usage=usage)

    def _logprobs(self, logprobs: list[TokenLogprobs]) -> ChatLogprobs | None:
        if not self._with_logprobs:
            return None
        return ChatLogprobs(
            content=[
                ChatTokenLogprob(
                    **_top(token.chosen), top_logprobs=[ChatTopLogprob(**_top(other)) for other in token.alternatives]
                )
                for token in logprobs
            ]
        )


class CompletionAnswer(Answer):
    """``/v1/completions``."""

    prefix = "cmpl"

    def _whole(self, choices: list[_Choice]) -> ResponsePart:
        return self._completion(
            [
                CompletionChoice(
                    index=index,
                    text=choice.text,
                    logprobs=self._logprobs(choice.logprobs, 0),
                    finish_reason=_reason(choice.finish_reason) or "stop",
                )
                for index, choice in enumerate(choices)
            ],
            self.usage,
        )

    def _openings(self) -> list[ResponsePart]:
        return []

    def _part(self, chunk: EngineChunk) -> ResponsePart:
        new = sum(len(token.chosen.token) for token in chunk.logprobs)
        offset = self._choices[chunk.index].token_characters - new
        choice = CompletionChoice(
            index=chunk.index,
            text=chunk.text,
            logprobs=self._logprobs(list(chunk.logprobs), offset),
            finish_reason=_reason(chunk.finish_reason),
        )
        return self._completion([choice])

    def _closing(self) -> ResponsePart:
        return self._completion([], self.usage)

    def _completion(self, choices: list[CompletionChoice], usage: Usage | None = None) -> ResponsePart:
        return Completion(id=self.id, created=self.created, model=self.model, choices=choices, usage=usage)

    def _logprobs(self, logprobs: list[TokenLogprobs], offset: int) -> CompletionLogprobs | None:
        if not self._with_logprobs:
            return None
        offsets = []
        for token in logprobs:
            offsets.append(offset)
            offset += len(token.chosen.token)
        return CompletionLogprobs(
            tokens=[token.chosen.token for token in logprobs],
            token_logprobs=[token.chosen.logprob for token in logprobs],
            top_logprobs=[
                {other.token: other.logprob for other in (*token.alternatives, token.chosen)} for token in logprobs
            ],
            text_offset=offsets,
        )


def _top(token: TokenLogprob) -> dict[str, object]:
    return {"token": token.token, "logprob": token.logprob, "bytes": list(token.token.encode())}


def _reason(finish_reason: str | None) -> FinishReason | None:
    if finish_reason is None:
        return None
    return cast(FinishReason, finish_reason if finish_reason in ("stop", "length") else "stop")


def _closing_source(chunks: AsyncIterator[EngineChunk]) -> contextlib.aclosing[AsyncGenerator[EngineChunk]]:
    """Return a context that closes the chunks' source, which aborts what is still being generated."""
    return contextlib.aclosing(cast("AsyncGenerator[EngineChunk]", chunks))


def _event(data: str) -> str:
    return f"data: {data}\n\n"
