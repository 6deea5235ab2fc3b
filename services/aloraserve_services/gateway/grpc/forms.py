"""Streamed answers as messages of ``aloraserve.v1``. Messages that leave together are one: their bytes, joined."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message

from aloraserve.serving.engine_messages import EngineChunk
from aloraserve.serving.tools import Heard
from aloraserve.v1.chat_pb2 import ChatLogprobs, ChatStreamResponse
from aloraserve.v1.completion_pb2 import CompleteStreamResponse, CompletionLogprobs
from aloraserve.wire.protobuf import message_of
from aloraserve.wire.responses import ResponsePart
from aloraserve_services.gateway.answers import Answer
from aloraserve_services.gateway.answers.events import delta_of, encode, reason_of
from aloraserve_services.gateway.answers.forms import ChoiceWriter, HeardWriter, StreamForm

_ONCE = frozenset({"id", "created", "model", "system_fingerprint"})
"""Fields that the first message has for all."""


class MessageForm(StreamForm):
    """Messages of one kind.

    Args:
        kind: of the messages.
    """

    raises = True

    def __init__(self, kind: type[Message]) -> None:
        self._kind = kind

    def heard_writer(self, answer: Answer) -> HeardWriter:
        """See the contract."""

        def write(chunk: EngineChunk, heard: Heard, reason: str | None, logprobs: Mapping[str, Any] | None) -> bytes:
            choice = {"index": chunk.index, "delta": delta_of(heard), "finish_reason": reason, "logprobs": logprobs}
            return message_of(self._kind, {"choices": [choice | answer.choice_fields(chunk)]}).SerializeToString()

        return write

    def part(self, part: ResponsePart) -> bytes:
        """See the contract."""
        content = part.model_dump(exclude=set(_ONCE), exclude_none=True)
        return message_of(self._kind, content).SerializeToString()

    def ending(self, error: Exception | None) -> bytes:
        """See the contract: a status follows."""
        return b""


class ChatForm(MessageForm):
    """Messages of a streamed chat."""

    def __init__(self) -> None:
        super().__init__(ChatStreamResponse)

    def choice_writer(self, answer: Answer) -> ChoiceWriter:
        """See the contract."""

        def write(chunk: EngineChunk, logprobs: Mapping[str, Any] | None) -> bytes:
            message = ChatStreamResponse()
            choice = message.choices.add()
            choice.index = chunk.index
            choice.delta.content = chunk.text
            if chunk.finish_reason is not None:
                choice.finish_reason = reason_of(chunk.finish_reason) or ""
            if logprobs is not None:
                choice.logprobs.CopyFrom(message_of(ChatLogprobs, logprobs))
            if more := answer.choice_fields(chunk):
                choice.extra_json = encode(more).decode()
            return message.SerializeToString()

        return write

    def openings(self, answer: Answer) -> list[bytes]:
        """See the contract."""
        message = ChatStreamResponse()
        for index in range(answer.count):
            choice = message.choices.add()
            choice.index = index
            choice.delta.role = "assistant"
        if more := answer.opening_fields(0):
            # A chat has one prompt, whichever choice it is.
            message.extra_json = encode(more).decode()
        return [message.SerializeToString()]


class CompletionForm(MessageForm):
    """Messages of a streamed completion."""

    def __init__(self) -> None:
        super().__init__(CompleteStreamResponse)

    def choice_writer(self, answer: Answer) -> ChoiceWriter:
        """See the contract."""

        def write(chunk: EngineChunk, logprobs: Mapping[str, Any] | None) -> bytes:
            message = CompleteStreamResponse()
            choice = message.choices.add()
            choice.index = chunk.index
            choice.text = chunk.text
            if chunk.finish_reason is not None:
                choice.finish_reason = reason_of(chunk.finish_reason) or ""
            if logprobs is not None:
                choice.logprobs.CopyFrom(message_of(CompletionLogprobs, logprobs))
            if more := answer.choice_fields(chunk):
                choice.extra_json = encode(more).decode()
            return message.SerializeToString()

        return write

    def openings(self, answer: Answer) -> list[bytes]:
        """See the contract: a completion has none."""
        return []
