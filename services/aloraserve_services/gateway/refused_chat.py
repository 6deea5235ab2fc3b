"""A chat that a guard refused: an answer that clients know, with ``finish_reason`` "content_filter"."""

from __future__ import annotations

import time

from starlette.responses import Response

from aloraserve.wire import Usage
from aloraserve.wire.chat_answers import (
    AssistantMessage,
    ChatChoice,
    ChatChunkChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatDelta,
)
from aloraserve_services.gateway.answer_headers import EVENTS
from aloraserve_services.gateway.answers.events import DONE, sse_event
from aloraserve_services.gateway.calls import GuardedCall
from aloraserve_services.gateway.intrinsic_results import guard_result_of, refusal_of


class RefusedChat:
    """Writes the answer to a chat that was not generated.

    Args:
        call: that guards refused.
    """

    def __init__(self, call: GuardedCall) -> None:
        request = call.request
        self._request = request
        self._include_usage = call.include_usage
        self._verdicts = verdicts = call.verdicts
        self._same = {"id": f"chatcmpl-{request.id}", "created": int(time.time()), "model": request.model}
        self._refusal = "; ".join(refusal_of(verdict) for verdict in verdicts if verdict.is_refusal)

    def response(self) -> Response:
        """Return the answer, as a stream if the request asks for one."""
        if not self._request.is_streamed:
            return Response(self.whole().to_json(), media_type="application/json")
        events = [*(sse_event(chunk.to_json().encode()) for chunk in self.chunks()), DONE]
        return Response(b"".join(events), media_type="text/event-stream", headers=EVENTS)

    @property
    def _usage(self) -> Usage:
        """What the answer cost: nothing; the guards' results have their own usage."""
        return Usage.of(0, 0, 0)

    def whole(self) -> ChatCompletion:
        """Return the whole answer."""
        message = AssistantMessage(content="", refusal=self._refusal)
        choice = ChatChoice(index=0, message=message, finish_reason="content_filter")
        guard = [guard_result_of(verdict) for verdict in self._verdicts]
        return ChatCompletion(**self._same, choices=[choice], usage=self._usage, guard=guard)

    def chunks(self) -> list[ChatCompletionChunk]:
        """Return the parts of a streamed answer."""
        return [self._opening(), self._ending(), *([self._usage_chunk()] if self._include_usage else [])]

    def _opening(self) -> ChatCompletionChunk:
        choice = ChatChunkChoice(index=0, delta=ChatDelta(role="assistant", content=""))
        guard = [guard_result_of(verdict) for verdict in self._verdicts]
        return ChatCompletionChunk(**self._same, choices=[choice], guard=guard)

    def _ending(self) -> ChatCompletionChunk:
        choice = ChatChunkChoice(index=0, delta=ChatDelta(refusal=self._refusal), finish_reason="content_filter")
        return ChatCompletionChunk(**self._same, choices=[choice])

    def _usage_chunk(self) -> ChatCompletionChunk:
        return ChatCompletionChunk(**self._same, choices=[], usage=self._usage)
