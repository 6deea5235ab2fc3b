"""``aloraserve.v1.Inference``: chats and completions."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import Message

from aloraserve.v1.chat_pb2 import ChatRequest, ChatResponse, ChatStreamResponse
from aloraserve.v1.completion_pb2 import CompleteRequest, CompleteResponse, CompleteStreamResponse
from aloraserve.v1.usage_pb2 import Serving
from aloraserve.wire import ChatRequest as ChatBody
from aloraserve.wire import CompletionRequest as CompletionBody
from aloraserve.wire.protobuf import message_of
from aloraserve.wire.responses import ResponsePart
from aloraserve_services.gateway.answers import Answer
from aloraserve_services.gateway.call_answers import chat_answer, completion_answer
from aloraserve_services.gateway.calls import BegunCall, ChatCalls, CompletionCalls, GuardedCall
from aloraserve_services.gateway.grpc.call import GrpcCall
from aloraserve_services.gateway.grpc.forms import ChatForm, CompletionForm, MessageForm
from aloraserve_services.gateway.grpc.method import GrpcMethod
from aloraserve_services.gateway.grpc.repeated import RepeatedCalls
from aloraserve_services.gateway.grpc.requests import Body, Kind, read_call
from aloraserve_services.gateway.headers import shown_reason
from aloraserve_services.gateway.idempotency import refuse_key
from aloraserve_services.gateway.refused_chat import RefusedChat

SERVICE = "/aloraserve.v1.Inference"
CHAT, COMPLETE = f"{SERVICE}/Chat", f"{SERVICE}/Complete"
Whole = TypeVar("Whole", ChatResponse, CompleteResponse)
CHAT_FORM, COMPLETION_FORM = ChatForm(), CompletionForm()


class InferenceMethods:
    """See the module's docstring.

    Args:
        chats: begins the answers to chats.
        completions: begins the answers to completions.
        repeated: calls that are sent again.
        max_bytes: the longest body that is accepted, as JSON.
        fingerprint: of the platform.
    """

    def __init__(
        self,
        chats: ChatCalls,
        completions: CompletionCalls,
        repeated: RepeatedCalls,
        max_bytes: int,
        fingerprint: str | None = None,
    ) -> None:
        self._chats = chats
        self._completions = completions
        self._repeated = repeated
        self._max_bytes = max_bytes
        self._fingerprint = fingerprint

    def methods(self) -> dict[str, GrpcMethod]:
        """Return the methods by their names."""
        call = GrpcMethod(is_call=True)
        return {
            CHAT: call._replace(answer=self.chat),
            COMPLETE: call._replace(answer=self.complete),
            f"{CHAT}Stream": call._replace(stream=self.chat_stream),
            f"{COMPLETE}Stream": call._replace(stream=self.complete_stream),
        }

    async def chat(self, message: bytes, call: GrpcCall) -> Message:
        """Answer a conversation."""
        body = await self._read(ChatRequest, ChatBody, message, call, is_streamed=False)
        return await self._repeated.once(ChatResponse, CHAT, call, body, lambda: self._chat(body, call))

    async def chat_stream(self, message: bytes, call: GrpcCall) -> None:
        """Answer a conversation in parts."""
        refuse_key(call.idempotency_key)
        body = await self._read(ChatRequest, ChatBody, message, call, is_streamed=True)
        begun = await self._chats.begin(body, call.origin)
        if isinstance(begun, GuardedCall):
            for chunk in RefusedChat(begun).chunks():
                await call.write(_message(ChatStreamResponse, chunk).SerializeToString())
            return
        await _stream(ChatStreamResponse, self._marked(chat_answer(begun)), begun, CHAT_FORM, call)

    async def complete(self, message: bytes, call: GrpcCall) -> Message:
        """Continue texts or token ids."""
        body = await self._read(CompleteRequest, CompletionBody, message, call, is_streamed=False)
        return await self._repeated.once(CompleteResponse, COMPLETE, call, body, lambda: self._complete(body, call))

    async def complete_stream(self, message: bytes, call: GrpcCall) -> None:
        """Continue texts or token ids, in parts."""
        refuse_key(call.idempotency_key)
        body = await self._read(CompleteRequest, CompletionBody, message, call, is_streamed=True)
        begun = await self._completions.begin(body, call.origin)
        await _stream(CompleteStreamResponse, self._marked(completion_answer(begun)), begun, COMPLETION_FORM, call)

    async def _chat(self, body: ChatBody, call: GrpcCall) -> ChatResponse:
        begun = await self._chats.begin(body, call.origin)
        if isinstance(begun, GuardedCall):
            return _message(ChatResponse, RefusedChat(begun).whole())
        return await _whole(ChatResponse, self._marked(chat_answer(begun)), begun, call)

    async def _complete(self, body: CompletionBody, call: GrpcCall) -> CompleteResponse:
        begun = await self._completions.begin(body, call.origin)
        return await _whole(CompleteResponse, self._marked(completion_answer(begun)), begun, call)

    def _marked(self, answer: Answer) -> Answer:
        answer.fingerprint = self._fingerprint
        return answer

    async def _read(
        self, kind: type[Message], body: type[Body], message: bytes, call: GrpcCall, *, is_streamed: bool
    ) -> Body:
        return await read_call(kind, body, message, call, is_streamed=is_streamed, max_bytes=self._max_bytes)


async def _whole(kind: type[Whole], answer: Answer, begun: BegunCall, call: GrpcCall) -> Whole:
    call.limits = dict(begun.first.ticket.headers)
    async with begun:
        message = message_of(kind, (await answer.finished(begun.chunks)).model_dump(exclude_none=True))
        message.serving.CopyFrom(_serving(begun))
        return message


async def _stream(
    kind: type[ChatStreamResponse] | type[CompleteStreamResponse],
    answer: Answer,
    begun: BegunCall,
    form: MessageForm,
    call: GrpcCall,
) -> None:
    answer.form = form
    call.limits = dict(begun.first.ticket.headers)
    first = kind(
        id=answer.id,
        created=answer.created,
        model=answer.model,
        serving=_serving(begun),
        system_fingerprint=answer.fingerprint,
    )
    head = first.SerializeToString()
    async with begun:
        async for written in answer.stream(begun.chunks, include_usage=begun.include_usage):
            await call.write_part(head + written)
            head = b""


def _message(kind: type[Kind], part: ResponsePart) -> Kind:
    return message_of(kind, part.model_dump(exclude_none=True))


def _serving(begun: BegunCall) -> Serving:
    generation, decision = begun.first, begun.first.decision
    return Serving(
        receipt_id=generation.request.id,
        replica=generation.label,
        kind=generation.request.kind,
        policy=decision.policy,
        reason=shown_reason(generation),
        prompt_tokens=generation.request.prompt_tokens,
        cached_tokens=generation.cached_tokens,
        ttft_ms=round(generation.ttft_s * 1000, 1),
        prefill_ms=round(generation.prefill_s * 1000, 1),
    )
