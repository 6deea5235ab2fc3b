"""Frames come apart anywhere and are put together again; what leaves within one turn of the loop leaves at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloraserve_services.channel import frames
from aloraserve_services.channel.frames import FrameError, FramePeer
from aloraserve_services.channel.messages import Cancel, Credit, Message, Ping, Pong, decode_to_replica, encode


class Wire:
    """A transport that notes what is written."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.end = ""

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def close(self) -> None:
        self.end = "closed"

    def abort(self) -> None:
        self.end = "aborted"


class Peer(FramePeer):
    def __init__(self, max_bytes: int = 1 << 20) -> None:
        super().__init__(decode_to_replica, max_bytes)
        self.wire = Wire()
        self.taken: list[Any] = []
        self.causes: list[str] = []
        self.connection_made(self.wire)  # type: ignore[arg-type]

    def received(self, messages: Sequence[Any]) -> None:
        self.taken += messages

    def ended(self, cause: str) -> None:
        self.causes.append(cause)


async def written(*messages: Message) -> bytes:
    peer = Peer()
    peer.send(*messages)
    await asyncio.sleep(0)
    return b"".join(peer.wire.writes)


@given(st.lists(st.integers(1, 60), max_size=12), st.integers(1, 6))
def test_frames_come_apart_anywhere(cuts: list[int], count: int) -> None:
    async def run() -> None:
        sent = [Credit(number, 1 << 20) for number in range(count)]
        data = b"".join([await written(message) for message in sent])
        peer = Peer()
        for cut in cuts:
            peer.data_received(data[:cut])
            data = data[cut:]
        peer.data_received(data)
        assert peer.taken == sent

    asyncio.run(run())


async def test_what_is_sent_within_a_turn_leaves_in_one_write() -> None:
    peer = Peer()
    peer.send(Cancel(1))
    peer.send(Cancel(2), Cancel(3))
    assert peer.wire.writes == []
    await asyncio.sleep(0)
    (data,) = peer.wire.writes
    other = Peer()
    other.data_received(data)
    assert other.taken == [Cancel(1), Cancel(2), Cancel(3)]


async def test_long_messages_leave_in_frames_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "_BATCH_BYTES", 8)
    sent = [Credit(number, 1 << 30) for number in range(3)]
    data = await written(*sent)
    other = Peer(max_bytes=2 * len(encode(sent[0])))
    other.data_received(data)
    assert other.taken == sent


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\x01\x00\x00\x00\xc1", b"\x02\x00\x00\x00\x91\x07"])
async def test_what_is_not_a_frame_ends_the_connection(data: bytes) -> None:
    peer = Peer()
    peer.data_received(data)
    peer.connection_lost(None)
    assert peer.wire.end == "aborted"
    assert not peer.is_open
    assert peer.causes[0].startswith("what came is not this version's")


async def test_a_ping_is_answered_at_once_and_told_to_nobody() -> None:
    peer = Peer()
    peer.send(Cancel(1))
    peer.data_received(await written(Ping()))
    assert peer.taken == []
    other = Peer()
    for data in peer.wire.writes:
        other.data_received(data)
    assert other.taken == [Cancel(1)], "what was ready leaves first; the pong is not handed on"
    assert encode(Pong()) in peer.wire.writes[-1]


async def test_a_message_that_no_frame_holds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_FRAME_BYTES", 8)
    peer = Peer()
    with pytest.raises(FrameError, match="at most 3 can be sent"):
        peer.send(Cancel(1 << 40))
    assert peer.is_open


async def test_nothing_is_sent_once_it_is_closed() -> None:
    peer = Peer()
    peer.send(Cancel(1))
    peer.close("done")
    peer.send(Cancel(2))
    await asyncio.sleep(0)
    peer.connection_lost(None)
    assert (len(peer.wire.writes), peer.wire.end, peer.causes) == (1, "closed", ["done"])
