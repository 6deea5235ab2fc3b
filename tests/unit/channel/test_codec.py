"""Calls and replies arrive as they were sent, whatever a later version adds; what is cut off is refused."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloraserve.adapters import AdapterRef
from aloraserve.savings.base import CachedBySource, CallSavings
from aloraserve.serving.engine_messages import (
    EngineCall,
    EngineChunk,
    EngineRefusal,
    EngineUnavailable,
    TokenLogprob,
    TokenLogprobs,
)
from aloraserve.wire.sampling import SamplingSettings
from aloraserve.wire.structured import StructuredOutput, StructureKind
from aloraserve_services.channel.codec import call_message, engine_call, engine_reply, reply_message
from aloraserve_services.channel.messages import (
    CallMessage,
    ChunkMessage,
    Token,
    decode_to_gateway,
    decode_to_replica,
    encode,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
numbers = st.floats(allow_nan=False)
logprobs = st.builds(
    TokenLogprob, texts, numbers, st.none() | st.binary(max_size=4), st.integers(0, 2**31), st.integers(0, 2**31)
)
savings = st.builds(
    CallSavings, numbers, st.integers(-9, 9), st.integers(0, 9), numbers, st.builds(CachedBySource, st.integers(0, 9))
)
sampling = st.builds(
    SamplingSettings,
    max_tokens=st.integers(1, 1_000_000),
    temperature=numbers,
    stop=st.lists(texts, max_size=4).map(tuple),
    seed=st.none() | st.integers(-(2**63), 2**63 - 1),
    logprobs=st.none() | st.integers(0, 20),
    ignore_eos=st.booleans(),
    structured=st.none()
    | st.builds(
        StructuredOutput,
        st.sampled_from(get_args(StructureKind)),
        texts,
        st.lists(texts, max_size=3).map(tuple),
    ),
)
calls = st.builds(
    EngineCall,
    texts,
    st.lists(st.integers(0, 2**32 - 1), max_size=50),
    sampling,
    st.none() | st.builds(AdapterRef, texts, st.sampled_from(["lora", "alora"]), texts),
    st.none() | texts,
    st.lists(st.binary(min_size=16, max_size=16), max_size=5),
    st.none() | texts,
    elsewhere_tokens=st.integers(0, 99),
)
chunks = st.builds(
    EngineChunk,
    st.integers(0, 7),
    texts,
    st.integers(0, 99),
    st.none() | st.sampled_from(["stop", "length", "abort"]),
    st.integers(0, 9),
    st.lists(st.builds(TokenLogprobs, logprobs, st.lists(logprobs, max_size=2).map(tuple)), max_size=2).map(tuple),
    numbers,
    savings=st.none() | savings,
)
replies = (
    chunks | st.builds(EngineRefusal, texts, st.none() | texts, st.booleans()) | st.builds(EngineUnavailable, texts)
)


@given(calls)
def test_a_call_arrives_as_it_was_sent(call: EngineCall) -> None:
    (message,) = decode_to_replica(b"\x91" + encode(call_message(7, call, 64)))
    assert (message.number, message.credits) == (7, 64)
    assert engine_call(message) == call


@given(replies)
def test_a_reply_arrives_as_it_was_sent(reply: Any) -> None:
    (message,) = decode_to_gateway(b"\x91" + encode(reply_message(7, reply)))
    assert message.number == 7
    assert engine_reply(message) == reply


def test_most_chunks_are_a_text_and_nothing_else() -> None:
    assert reply_message(1, EngineChunk(0, "x", 1)) == Token(1, 0, "x", 1)
    assert reply_message(1, EngineChunk(0, "x", 1, token_ids=(5,))) == ChunkMessage(1, 0, "x", 1, token_ids=(5,))


@pytest.mark.parametrize(("token_ids", "keys"), [(b"123", b""), (b"", b"k" * 17)])
def test_what_is_cut_off_is_refused(token_ids: bytes, keys: bytes) -> None:
    with pytest.raises(ValueError, match="each are needed"):
        engine_call(CallMessage(1, "r", token_ids, keys, SamplingSettings(), 1))


@pytest.mark.parametrize("token_id", [-1, 2**32])
def test_a_token_id_that_has_no_room_is_refused(token_id: int) -> None:
    with pytest.raises(OverflowError):
        call_message(1, EngineCall("r", [token_id], SamplingSettings()), 1)


def test_what_a_later_version_adds_is_passed_over_and_what_it_lacks_is_filled_in() -> None:
    longer = [9, 1, 0, "x", 1, None, 0, [], 0.0, None, [], None, [], "new", 5]
    (chunk,) = decode_to_gateway(msgspec.msgpack.encode([longer]))
    assert chunk == ChunkMessage(1, 0, "x", 1)
    (short,) = decode_to_gateway(msgspec.msgpack.encode([[9, 1, 0, "x", 1]]))
    assert short == chunk
