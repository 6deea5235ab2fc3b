"""Answers of ``/v1/chat/completions``."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Any, cast

from aloraserve.serving.engine_messages import EngineChunk, TokenLogprobs
from aloraserve.serving.request import GenerationRequest
from aloraserve.wire.chat_answers import (
    AssistantMessage,
    ChatChoice,
    ChatChunkChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatDelta,
    ChatFinishReason,
    ChatLogprobs,
)
from aloraserve.wire.intrinsic_results import GuardResult, IntrinsicResult
from aloraserve.wire.messages import ChatMessage
from aloraserve.wire.responses import ResponsePart, SavingsUsage
from aloraserve_services.gateway.answers.base import Answer, WholeChoice
from aloraserve_services.gateway.answers.called_choice import CalledChoice
from aloraserve_services.gateway.answers.events import closing_source, reason_of, top_logprob

Look = Callable[[ChatMessage], AsyncIterator[tuple[int, IntrinsicResult]]]
"""Has intrinsics look at an answer; yields what each found with its place in the request, as it does."""


class ChatAnswer(Answer):
    """``/v1/chat/completions``."""

    prefix = "chatcmpl"
    part_kind = "chat.completion.chunk"
    before_text = b'"delta":{"content":'
    after_text = b"}"
    guards: Sequence[GuardResult] = ()
    """What let the chat pass."""
    _look: Look | None = None
    _called: Sequence[CalledChoice] = ()

    def __init__(self, requests: Sequence[GenerationRequest], savings: SavingsUsage | None = None) -> None:
        super().__init__(requests, savings)
        if (tool_use := requests[0].tool_use) is not None:
            self._called = [CalledChoice(tool_use) for _ in range(self.count)]

    def look_with(self, look: Look) -> None:
        """Have intrinsics look at the answer's text once it is there; the answer carries what they find."""
        self._look = look
        self._later = functools.partial(self._found, look)

    async def _whole(self, choices: list[WholeChoice]) -> ResponsePart:
        written = [self._written(index, choice) for index, choice in enumerate(choices)]
        found = await self._results(choices[0].text)
        return ChatCompletion(
            id=self.id,
            created=self.created,
            model=self.model,
            system_fingerprint=self.fingerprint,
            choices=written,
            usage=self.usage,
            prompt_token_ids=self._prompt_ids_of(0),
            prompt_logprobs=self._prompt_logprobs_of(0),
            guard=[*self.guards] or None,
            intrinsics=found,
        )

    def _written(self, index: int, choice: WholeChoice) -> ChatChoice:
        reason: str = reason_of(choice.finish_reason) or "stop"
        message = AssistantMessage(content=choice.text)
        if self._called:
            called = self._called[index]
            called.hear(choice.text, reason)
            reason = called.reason(reason)
            calls = called.tool_calls() or None
            message = AssistantMessage(content=called.text or (None if calls else ""), tool_calls=calls)
        return ChatChoice(
            index=index,
            message=message,
            logprobs=ChatLogprobs(**self._logprobs(choice.logprobs, 0)) if self._with_logprobs else None,
            finish_reason=cast(ChatFinishReason, reason),
            stop_reason=choice.stop_reason,
            token_ids=self._token_ids_of(choice),
        )

    def _chunk_writer(self) -> Callable[[EngineChunk], bytes]:
        if not self._called:
            return super()._chunk_writer()
        written = self.form.heard_writer(self)

        def write(chunk: EngineChunk) -> bytes:
            called = self._called[chunk.index]
            reason = reason_of(chunk.finish_reason)
            heard = called.hear(chunk.text, reason)
            if not (heard.text or heard.calls or reason or self._with_logprobs or self.extras.token_ids):
                return b""
            logprobs = self._logprobs(chunk.logprobs, 0) if self._with_logprobs else None
            return written(chunk, heard, None if reason is None else called.reason(reason), logprobs)

        return write

    def _openings(self) -> list[bytes]:
        events = self.form.openings(self)
        return [*events, self._addition(guard=[*self.guards])] if self.guards else events

    async def _found(self, look: Look, text: str) -> AsyncGenerator[bytes]:
        """Yield an event for what each intrinsic finds in the answer, as it does."""
        async with closing_source(look(self._said(text))) as results:
            async for _, result in results:
                yield self._addition(intrinsics=[result])

    async def _results(self, text: str) -> list[IntrinsicResult] | None:
        """Return what intrinsics find in the answer, in the request's order; None if there are none."""
        if self._look is None:
            return None
        found = {number: result async for number, result in self._look(self._said(text))}
        return [found[number] for number in sorted(found)]

    def _said(self, text: str) -> ChatMessage:
        """Return the answer, whose text is known, as a message."""
        return self._called[0].message() if self._called else ChatMessage(role="assistant", content=text)

    def _addition(self, **fields: Any) -> bytes:
        """Return an event with an extension and a choice that adds nothing, as clients take a chunk to have one."""
        nothing = ChatChunkChoice(index=0, delta=ChatDelta())
        return self.form.part(self._chunk([nothing], **fields))

    def _closing(self) -> ResponsePart:
        return self._chunk([], usage=self.usage)

    def _chunk(self, choices: list[ChatChunkChoice], **fields: Any) -> ChatCompletionChunk:
        return ChatCompletionChunk(
            id=self.id,
            created=self.created,
            model=self.model,
            system_fingerprint=self.fingerprint,
            choices=choices,
            **fields,
        )

    def _logprobs(self, logprobs: Sequence[TokenLogprobs], offset: int) -> dict[str, Any]:
        return {
            "content": [
                {**top_logprob(token.chosen), "top_logprobs": [top_logprob(other) for other in token.alternatives]}
                for token in logprobs
            ]
        }
