"""Answers of ``/v1/responses``: the same chunks as a chat's, in items and events of OpenAI's Responses API."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aloraserve.serving.engine_messages import EngineChunk, TokenLogprobs
from aloraserve.serving.request import GenerationRequest
from aloraserve.serving.tools import Heard
from aloraserve.wire import reply_for
from aloraserve.wire.response_answers import (
    IncompleteDetails,
    InputTokensDetails,
    ResponseFault,
    ResponseObject,
    ResponseStatus,
    ResponseUsage,
)
from aloraserve.wire.response_request import ResponsesRequest
from aloraserve.wire.responses import ResponsePart, SavingsUsage
from aloraserve_services.gateway.answers.base import Answer, WholeChoice
from aloraserve_services.gateway.answers.called_choice import CalledChoice
from aloraserve_services.gateway.answers.events import encode, reason_of, sse_event, top_logprob
from aloraserve_services.gateway.answers.response_output import ResponseOutput


class ResponseAnswer(Answer):
    """``/v1/responses``; it has one choice."""

    prefix = "resp"
    repeated: Mapping[str, Any] = {}
    """Fields of the request that the response repeats."""

    def __init__(self, requests: Sequence[GenerationRequest], savings: SavingsUsage | None = None) -> None:
        super().__init__(requests, savings)
        [request] = requests
        self.id = f"{self.prefix}_{request.id}"
        self._called = None if request.tool_use is None else CalledChoice(request.tool_use)
        self._output = ResponseOutput(request.id)
        self._sampled: dict[str, Any] = {"temperature": request.sampling.temperature, "top_p": request.sampling.top_p}
        self._numbers = itertools.count()

    def _hear(self, text: str, reason: str | None, logprobs: Sequence[TokenLogprobs]) -> list[dict[str, Any]]:
        """Return the events of what more was generated."""
        heard = Heard(text) if self._called is None else self._called.hear(text, reason)
        shown = self._logprobs(logprobs, 0)["logprobs"] if self._with_logprobs else []
        events = self._output.add(heard, shown)
        return events if reason is None else [*events, *self._output.end(is_whole=reason == "stop")]

    async def _whole(self, choices: list[WholeChoice]) -> ResponsePart:
        [choice] = choices
        reason = reason_of(choice.finish_reason) or "stop"
        self._hear(choice.text, reason, choice.logprobs)
        return self._response(_status(reason))

    def _openings(self) -> list[bytes]:
        begun = self._response("in_progress").model_dump()
        kinds = ("response.created", "response.in_progress")
        return [self._event({"type": kind, "response": begun}) for kind in kinds]

    def _chunk_writer(self) -> Callable[[EngineChunk], bytes]:
        def write(chunk: EngineChunk) -> bytes:
            reason = reason_of(chunk.finish_reason)
            events = self._hear(chunk.text, reason, chunk.logprobs)
            if reason is not None:
                status = _status(reason)
                events.append({"type": f"response.{status}", "response": self._response(status).model_dump()})
            return b"".join(map(self._event, events))

        return write

    def ending(self, error: Exception | None) -> bytes:
        """See the base class."""
        if error is None:
            return b""
        failed = self._response("failed", fault_of(error))
        return self._event({"type": "response.failed", "response": failed.model_dump()})

    def _closing(self) -> ResponsePart:
        return self._response("completed")

    def _logprobs(self, logprobs: Sequence[TokenLogprobs], offset: int) -> dict[str, Any]:
        return {
            "logprobs": [
                {**top_logprob(token.chosen), "top_logprobs": [top_logprob(other) for other in token.alternatives]}
                for token in logprobs
            ]
        }

    def _response(self, status: ResponseStatus, fault: ResponseFault | None = None) -> ResponseObject:
        counts = self.usage
        usage = ResponseUsage(
            input_tokens=counts.prompt_tokens,
            input_tokens_details=InputTokensDetails(cached_tokens=counts.prompt_tokens_details.cached_tokens),
            output_tokens=counts.completion_tokens,
            total_tokens=counts.total_tokens,
            aloraserve=counts.aloraserve,
        )
        return ResponseObject(
            id=self.id,
            created_at=self.created,
            status=status,
            error=fault,
            incomplete_details=IncompleteDetails() if status == "incomplete" else None,
            model=self.model,
            output=self._output.items if status != "in_progress" else [],
            usage=None if status == "in_progress" else usage,
            **self._sampled,
            **self.repeated,
        )

    def _event(self, event: dict[str, Any]) -> bytes:
        return response_event(event, next(self._numbers))


def unbegun_response(body: ResponsesRequest, request_id: str, error: Exception) -> bytes:
    """Return the events of a response that failed before any of it was there, in a stream whose headers have left.

    What the model's own defaults would say of its sampling is not known yet: OpenAI's stand for them.
    """
    failed = ResponseObject(
        id=f"{ResponseAnswer.prefix}_{request_id}",
        created_at=int(time.time()),
        status="failed",
        error=fault_of(error),
        model=body.model,
        output=[],
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        **body.repeated(),
    )
    created = failed.model_copy(update={"status": "in_progress", "error": None})
    events = (("response.created", created), ("response.failed", failed))
    return b"".join(
        response_event({"type": kind, "response": response.model_dump()}, number)
        for number, (kind, response) in enumerate(events)
    )


def response_event(event: Mapping[str, Any], number: int) -> bytes:
    """Return an event of a response, which has its kind twice and its number in the stream."""
    return b"event: %b\n%b" % (event["type"].encode(), sse_event(encode({**event, "sequence_number": number})))


def fault_of(error: Exception) -> ResponseFault:
    """Return an error as a response has it."""
    fault = reply_for(error).body["error"]
    return ResponseFault(code=fault["code"] or "server_error", message=fault["message"])


def _status(reason: str) -> ResponseStatus:
    return "incomplete" if reason == "length" else "completed"
