"""Replies to a call as the gateway reads them."""

from __future__ import annotations

import asyncio

import pytest

from aloraserve.serving.engine_messages import EngineChunk
from aloraserve_services.channel.replies import ChannelReplies


async def moved() -> None:
    """Stand for a replica that is found in place of a full one."""


async def test_it_is_known_which_replies_can_be_had_without_waiting() -> None:
    replies = ChannelReplies(moved)
    assert not replies.is_ready
    for text in "ab":
        replies.put(EngineChunk(0, text, 1))
    assert replies.is_ready
    assert [(await anext(replies)).text for _ in "ab"] == ["a", "b"]  # type: ignore[union-attr]
    assert not replies.is_ready
    reading = asyncio.ensure_future(anext(replies))
    await asyncio.sleep(0)
    assert not reading.done()
    replies.put(EngineChunk(0, "c", 1))
    assert (await reading).text == "c"  # type: ignore[union-attr]


async def test_the_end_can_be_had_without_waiting() -> None:
    replies = ChannelReplies(moved)
    replies.end(StopAsyncIteration())
    assert replies.is_ready
    with pytest.raises(StopAsyncIteration):
        await anext(replies)


async def test_a_call_that_moves_to_another_replica_waits() -> None:
    replies = ChannelReplies(moved)
    replies.refuse()
    assert not replies.is_ready
