"""Calls and replies as messages, and back."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence

from aloraserve.blocks import BlockKey
from aloraserve.blocks.keys import KEY_BYTES
from aloraserve.serving.engine_messages import (
    EngineCall,
    EngineChunk,
    EngineRefusal,
    EngineReply,
    EngineUnavailable,
)
from aloraserve_services.channel.messages import CallMessage, ChunkMessage, Refusal, Token, Unavailable

ReplyMessage = Token | ChunkMessage | Refusal | Unavailable
_TOKEN_BYTES = 4
_IS_BIG_ENDIAN = sys.byteorder == "big"


def call_message(number: int, call: EngineCall, credits: int) -> CallMessage:
    """Return a call as it is sent.

    Args:
        number: of the call on its connection.
        call: to be sent.
        credits: chunks that may come before more are granted.

    Raises:
        OverflowError: a token id is not a 32-bit number.
    """
    return CallMessage(
        number,
        call.request_id,
        _packed(call.token_ids),
        b"".join(call.keys),
        call.sampling,
        credits,
        call.adapter,
        call.cache_salt,
        call.traceparent,
        call.shows_tokens,
        call.share,
        call.public_blocks,
        call.elsewhere_tokens,
    )


def engine_call(message: CallMessage) -> EngineCall:
    """Return the call that was sent.

    Raises:
        ValueError: its token ids or keys are cut off.
    """
    return EngineCall(
        message.request_id,
        _unpacked(message.token_ids),
        message.sampling,
        message.adapter,
        message.cache_salt,
        _split(message.keys),
        message.traceparent,
        message.shows_tokens,
        message.share,
        message.public_blocks,
        message.elsewhere_tokens,
    )


def reply_message(number: int, reply: EngineReply) -> ReplyMessage:
    """Return a reply as it is sent."""
    if isinstance(reply, EngineChunk):
        return _chunk_message(number, reply)
    if isinstance(reply, EngineRefusal):
        return Refusal(number, reply.message, reply.param, reply.is_adapter_fault)
    return Unavailable(number, reply.message)


def _chunk_message(number: int, chunk: EngineChunk) -> Token | ChunkMessage:
    is_first = chunk.prefill_s or chunk.cached_tokens or chunk.savings is not None
    if chunk.finish_reason is None and not (chunk.logprobs or chunk.token_ids or chunk.prompt_logprobs or is_first):
        return Token(number, chunk.index, chunk.text, chunk.tokens)
    return ChunkMessage(
        number,
        chunk.index,
        chunk.text,
        chunk.tokens,
        chunk.finish_reason,
        chunk.cached_tokens,
        chunk.logprobs,
        chunk.prefill_s,
        chunk.savings,
        chunk.token_ids,
        chunk.stop_reason,
        chunk.prompt_logprobs,
    )


def engine_reply(message: ReplyMessage) -> EngineReply:
    """Return the reply that was sent."""
    if isinstance(message, Token):
        return EngineChunk(message.index, message.text, message.tokens)
    if isinstance(message, ChunkMessage):
        return EngineChunk(
            message.index,
            message.text,
            message.tokens,
            message.finish_reason,
            message.cached_tokens,
            message.logprobs,
            message.prefill_s,
            token_ids=message.token_ids,
            savings=message.savings,
            stop_reason=message.stop_reason,
            prompt_logprobs=message.prompt_logprobs,
        )
    if isinstance(message, Refusal):
        return EngineRefusal(message.message, message.param, message.is_adapter_fault)
    return EngineUnavailable(message.message)


def _packed(token_ids: Sequence[int]) -> bytes:
    packed = array("I", token_ids)
    if _IS_BIG_ENDIAN:
        packed.byteswap()
    return packed.tobytes()


def _unpacked(data: bytes) -> list[int]:
    if len(data) % _TOKEN_BYTES:
        raise ValueError(f"token ids take {len(data)} bytes; {_TOKEN_BYTES} each are needed")
    token_ids = array("I", data)
    if _IS_BIG_ENDIAN:
        token_ids.byteswap()
    return token_ids.tolist()


def _split(data: bytes) -> list[BlockKey]:
    if len(data) % KEY_BYTES:
        raise ValueError(f"block keys take {len(data)} bytes; {KEY_BYTES} each are needed")
    return [data[start : start + KEY_BYTES] for start in range(0, len(data), KEY_BYTES)]
