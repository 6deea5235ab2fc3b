"""Comments whose client has gone: what their sending raises is heard by the stream, or by its end; never by nobody."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from typing import Any

import pytest
from starlette.types import Message

from aloraserve_services.gateway.stream_comments import StreamComments


class Gone:
    """A client that is not there any more."""

    def __init__(self) -> None:
        self.tried = asyncio.Event()
        self.tries = 0

    async def send(self, message: Message) -> None:
        """See ASGI."""
        self.tries += 1
        self.tried.set()
        raise ConnectionError("gone")


@pytest.fixture
async def unheard() -> Any:
    """What asyncio says that nobody heard."""
    found: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: found.append(context["message"]))
    return found


@pytest.mark.parametrize("is_awaited", [True, False])
async def test_a_comment_that_cannot_be_sent_is_heard(unheard: list[str], is_awaited: bool) -> None:
    gone = Gone()
    with pytest.raises(ConnectionError) if is_awaited else contextlib.nullcontext():
        async with StreamComments(gone.send, 0.001) as comments:
            comments.wait()
            await gone.tried.wait()
            if is_awaited:
                await comments.arrived()
    gc.collect()
    await asyncio.sleep(0)
    assert unheard == []


async def test_a_comment_that_is_not_taken_is_waited_for_without_haste() -> None:
    """The loop is not kept busy by a client that does not read."""
    stalled, sent = asyncio.Event(), asyncio.Event()

    async def send(message: Message) -> None:
        sent.set()
        await stalled.wait()

    async with StreamComments(send, 0.001) as comments:
        comments.wait()
        await sent.wait()
        await asyncio.wait_for(_looked(comments), 5)
        assert comments._timer is not None
        assert comments._timer.when() > comments._waits_since


async def test_no_further_comment_follows_one_that_failed() -> None:
    gone = Gone()
    async with StreamComments(gone.send, 0.001) as comments:
        comments.wait()
        await gone.tried.wait()
        await asyncio.wait_for(_looked(comments), 5)
    assert gone.tries == 1


async def _looked(comments: StreamComments) -> None:
    """Return once comments have looked at their stream a few times more."""
    timers: set[Any] = set()
    while len(timers) < 5:
        timers.add(comments._timer)
        await asyncio.sleep(0)
