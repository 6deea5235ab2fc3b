"""Answers of ``/v1/chat/completions``."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Any

from aloraserve.serving.engine_messages import TokenLogprobs
from aloraserve.wire.chat_answers import (
    AssistantMessage,
    ChatChoice,
    ChatChunkChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatDelta,
    ChatLogprobs,
)
from aloraserve.wire.intrinsic_results import GuardResult, IntrinsicResult
from aloraserve.wire.responses import ResponsePart
from aloraserve_services.gateway.answers.base import Answer, WholeChoice
from aloraserve_services.gateway.answers.events import closing_source, reason_of, top_logprob

Look = Callable[[str], AsyncIterator[tuple[int, IntrinsicResult]]]
"""Has intrinsics look at an answer's text; yields what each found with its place in the request, as it does."""


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

    async def _whole(self, choices: list[WholeChoice]) -> ResponsePart:
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
                    finish_reason=reason_of(choice.finish_reason) or "stop",
                    stop_reason=choice.stop_reason,
                    token_ids=self._token_ids_of(choice),
                )
                for index, choice in enumerate(choices)
            ],
            usage=self.usage,
            prompt_token_ids=self._prompt_ids_of(0),
            prompt_logprobs=self._prompt_logprobs_of(0),
            guard=[*self.guards] or None,
            intrinsics=found,
        )

    def _openings(self) -> list[bytes]:
        events = self.form.openings(self)
        return [*events, self._addition(guard=[*self.guards])] if self.guards else events

    async def _found(self, look: Look, text: str) -> AsyncGenerator[bytes]:
        """Yield an event for what each intrinsic finds in the answer, as it does."""
        async with closing_source(look(text)) as results:
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
        return self.form.part(chunk)

    def _closing(self) -> ResponsePart:
        return ChatCompletionChunk(id=self.id, created=self.created, model=self.model, choices=[], usage=self.usage)

    def _logprobs(self, logprobs: Sequence[TokenLogprobs], offset: int) -> dict[str, Any]:
        return {
            "content": [
                {**top_logprob(token.chosen), "top_logprobs": [top_logprob(other) for other in token.alternatives]}
                for token in logprobs
            ]
        }
