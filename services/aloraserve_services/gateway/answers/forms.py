"""The form of a streamed answer: what differs between transports."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from aloraserve.serving.engine_messages import EngineChunk
from aloraserve.serving.tools import Heard
from aloraserve.wire import reply_for
from aloraserve.wire.responses import ResponsePart
from aloraserve_services.gateway.answers.events import (
    DONE,
    choice_ending,
    delta_of,
    encode,
    plain_endings,
    reason_of,
    sse_event,
)

if TYPE_CHECKING:
    from aloraserve_services.gateway.answers.base import Answer

ChoiceWriter = Callable[[EngineChunk, Mapping[str, Any] | None], bytes]
"""Writes a chunk, with its log-probabilities in the endpoint's shape or without."""

HeardWriter = Callable[[EngineChunk, Heard, str | None, Mapping[str, Any] | None], bytes]
"""Writes what was heard of a chunk: text and calls, the reason if it ends, and log-probabilities."""


class StreamForm(ABC):
    """Writes the parts of streamed answers. Those that leave together are joined: bytes after bytes.

    Attributes:
        raises: whether an error amid an answer is raised, after all that was written before it.
    """

    raises = False

    @abstractmethod
    def choice_writer(self, answer: Answer) -> ChoiceWriter:
        """Return what writes the chunks of an answer's choices. A long answer has many: be quick."""

    @abstractmethod
    def heard_writer(self, answer: Answer) -> HeardWriter:
        """Return what writes a chat's choices out of which calls of functions are read."""

    @abstractmethod
    def openings(self, answer: Answer) -> list[bytes]:
        """Return what a chat's answer begins with: the role, for each choice."""

    @abstractmethod
    def part(self, part: ResponsePart) -> bytes:
        """Return anything else."""

    @abstractmethod
    def ending(self, error: Exception | None) -> bytes:
        """Return the end of an answer, which an error cut short if there is one."""


class SseForm(StreamForm):
    """Server-sent events, the one of OpenAI's API.

    Each event is what is the same in all of them, made in the beginning, around a text and perhaps log-probabilities,
    which C writes.
    """

    def choice_writer(self, answer: Answer) -> ChoiceWriter:
        """See the contract."""
        beginnings, after_text = _beginnings(answer, answer.before_text), answer.after_text
        endings = plain_endings(after_text)

        def write(chunk: EngineChunk, logprobs: Mapping[str, Any] | None) -> bytes:
            in_choice, beside = answer.choice_fields(chunk), answer.event_fields(chunk.index)
            if logprobs is None and not in_choice and not beside:
                ending = endings.get(chunk.finish_reason) or endings["stop"]
            else:
                reason = reason_of(chunk.finish_reason)
                ending = after_text + choice_ending(encode(logprobs), reason, in_choice, beside)
            return beginnings[chunk.index] + encode(chunk.text) + ending

        return write

    def heard_writer(self, answer: Answer) -> HeardWriter:
        """See the contract."""
        beginnings = _beginnings(answer, b'"delta":')

        def write(chunk: EngineChunk, heard: Heard, reason: str | None, logprobs: Mapping[str, Any] | None) -> bytes:
            in_choice, beside = answer.choice_fields(chunk), answer.event_fields(chunk.index)
            ending = choice_ending(encode(logprobs), reason, in_choice, beside)
            return beginnings[chunk.index] + encode(delta_of(heard)) + ending

        return write

    def openings(self, answer: Answer) -> list[bytes]:
        """See the contract."""
        role = b'"delta":{"role":"assistant","content":""}'
        endings = (
            choice_ending(b"null", None, beside=answer.opening_fields(index) | answer.event_fields(index))
            for index in range(answer.count)
        )
        return [begin + ending for begin, ending in zip(_beginnings(answer, role), endings, strict=True)]

    def part(self, part: ResponsePart) -> bytes:
        """See the contract."""
        return sse_event(part.to_json().encode())

    def ending(self, error: Exception | None) -> bytes:
        """See the contract: the status is sent, so the client learns of an error from the stream alone."""
        failed = b"" if error is None else sse_event(encode(reply_for(error).body))
        return failed + DONE


SSE = SseForm()


def _beginnings(answer: Answer, before_text: bytes) -> list[bytes]:
    """Return what stands before the text in the events of each choice."""
    fields = {"id": answer.id, "object": answer.part_kind, "created": answer.created, "model": answer.model}
    if answer.fingerprint is not None:
        fields["system_fingerprint"] = answer.fingerprint
    head = b"data: " + encode(fields)[:-1] + b',"choices":[{"index":'
    return [b"%b%d,%b" % (head, index, before_text) for index in range(answer.count)]
