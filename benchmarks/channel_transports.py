"""Transports that ``benchmarks/channel.py`` compares: the same messages over grpc.aio, ZeroMQ and the channel."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec

from aloraserve.serving.engine_messages import EngineCall, EngineChunk, EngineReply
from aloraserve.wire.sampling import SamplingSettings
from aloraserve_services.channel.connection import connect
from aloraserve_services.channel.endpoint import Endpoint
from aloraserve_services.channel.replies import ChannelReplies
from aloraserve_services.channel.server import ChannelServer


class Call(msgspec.Struct, array_like=True, tag=1):
    """A call: id, chunks to answer with, packed token ids, block keys."""

    id: int
    chunks: int
    tokens: bytes
    keys: bytes


class Chunk(msgspec.Struct, array_like=True, tag=2):
    """A chunk of an answer."""

    id: int
    index: int
    text: str
    tokens: int
    finish: str | None = None


Answer = Callable[[Call], AsyncIterator[Chunk]]
_encode = msgspec.msgpack.Encoder().encode
_decode_call = msgspec.msgpack.Decoder(Call).decode
_decode_chunk = msgspec.msgpack.Decoder(Chunk).decode
CAPACITY = 256


class Client(Protocol):
    """An open connection."""

    def call(self, call: Call) -> AsyncIterator[Chunk]:
        """Yield the answer."""
        ...

    async def close(self) -> None:
        """Close it."""
        ...


class Transport(Protocol):
    """One way to carry calls."""

    def address(self, path: Path) -> str:
        """Return an address to listen on."""
        ...

    async def serve(self, address: str, answer: Answer) -> None:
        """Answer, until cancelled."""
        ...

    async def connect(self, address: str) -> Client:
        """Open a connection as soon as somebody listens."""
        ...


class Waiting:
    """The chunks of running calls, handed to who waits for them."""

    def __init__(self) -> None:
        self._number = 0
        self._queues: dict[int, tuple[deque[Chunk], asyncio.Event]] = {}

    def put(self, chunk: Chunk) -> None:
        """Hand a chunk on."""
        chunks, came = self._queues[chunk.id]
        chunks.append(chunk)
        came.set()

    async def call(self, call: Call, send: Callable[[bytes], Any]) -> AsyncIterator[Chunk]:
        """Send a call and yield its chunks."""
        self._number = number = self._number + 1
        chunks, came = self._queues[number] = deque(), asyncio.Event()
        send(_encode(msgspec.structs.replace(call, id=number)))
        while True:
            await came.wait()
            came.clear()
            while chunks:
                chunk = chunks.popleft()
                yield chunk
                if chunk.finish:
                    del self._queues[number]
                    return


class Channel:
    """The platform's own channel: both ends as gateways and replicas have them.

    Args:
        is_tls: whether the gateway comes over TLS, as from another machine, and not through a Unix socket.
    """

    def __init__(self, is_tls: bool) -> None:
        self._is_tls = is_tls

    def address(self, path: Path) -> str:
        return f"{path}.json"

    async def serve(self, address: str, answer: Answer) -> None:
        async def generate(call: EngineCall) -> AsyncGenerator[EngineReply]:
            async for chunk in answer(Call(0, call.sampling.max_tokens or 1, b"", b"")):
                yield EngineChunk(chunk.index, chunk.text, chunk.tokens, chunk.finish)

        server = ChannelServer("a", generate, CAPACITY)
        endpoint = (await server.start("0.0.0.0" if self._is_tls else "127.0.0.1")).as_dict()  # noqa: S104
        if self._is_tls:
            endpoint["socket"] = ""
        await asyncio.to_thread(_write, address, msgspec.json.encode(endpoint))
        await asyncio.Event().wait()

    async def connect(self, address: str) -> Client:
        values = msgspec.json.decode(await _patiently(lambda: asyncio.to_thread(Path(address).read_bytes)))
        secret = b64decode(values["secret"])
        connection = await connect(Endpoint.from_dict(values | {"secret": secret}), lambda: None)
        prompt = list(range(500))
        keys = [bytes([number]) * 16 for number in range(15)]

        async def call(asked: Call) -> AsyncIterator[Chunk]:
            replies = ChannelReplies(_never)
            connection.call(EngineCall("r", prompt, SamplingSettings(asked.chunks), keys=keys), replies)
            async for reply in replies:
                assert isinstance(reply, EngineChunk)
                yield Chunk(0, reply.index, reply.text, reply.tokens, reply.finish_reason)

        async def close() -> None:
            connection.close("done")

        return _Connected(call, close)


def _write(path: str, data: bytes) -> None:
    """Write a file that is there whole or not at all."""
    unfinished = Path(f"{path}.part")
    unfinished.write_bytes(data)
    unfinished.rename(path)


async def _never() -> None:
    raise AssertionError("the replica has room for all")


class _Connected:
    def __init__(self, call: Callable[[Call], AsyncIterator[Chunk]], close: Callable[[], Any]) -> None:
        self.call = call
        self.close = close


class ZeroMq:
    """A DEALER and a ROUTER of pyzmq's asyncio sockets; each message is a frame."""

    def address(self, path: Path) -> str:
        return f"ipc://{path}.z"

    async def serve(self, address: str, answer: Answer) -> None:
        import zmq
        import zmq.asyncio

        socket = zmq.asyncio.Context().socket(zmq.ROUTER)
        socket.bind(address)

        async def run(who: bytes, call: Call) -> None:
            async for chunk in answer(call):
                await socket.send_multipart([who, _encode(chunk)])

        tasks = set()
        while True:
            who, data = await socket.recv_multipart()
            task = asyncio.create_task(run(who, _decode_call(data)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async def connect(self, address: str) -> Client:
        import zmq
        import zmq.asyncio

        socket, waiting = zmq.asyncio.Context().socket(zmq.DEALER), Waiting()
        socket.connect(address)

        async def read() -> None:
            while True:
                waiting.put(_decode_chunk(await socket.recv()))

        reading = asyncio.create_task(read())

        async def close() -> None:
            reading.cancel()
            socket.close(0)

        return _Connected(lambda call: waiting.call(call, socket.send), close)


class Grpc:
    """One bidirectional stream of grpc.aio, with bytes as messages."""

    def address(self, path: Path) -> str:
        return f"unix:{path}.g"

    async def serve(self, address: str, answer: Answer) -> None:
        import grpc

        async def handle(requests: AsyncIterator[bytes], context: Any) -> None:
            # A stream takes one write at a time.
            writing, tasks = asyncio.Lock(), set()

            async def run(call: Call) -> None:
                async for chunk in answer(call):
                    async with writing:
                        await context.write(_encode(chunk))

            async for data in requests:
                task = asyncio.create_task(run(_decode_call(data)))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

        server = grpc.aio.server()
        method = grpc.stream_stream_rpc_method_handler(handle)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench", {"Calls": method}),))
        server.add_insecure_port(address)
        await server.start()
        await server.wait_for_termination()

    async def connect(self, address: str) -> Client:
        import grpc

        channel, waiting = grpc.aio.insecure_channel(address), Waiting()
        stream = channel.stream_stream("/bench/Calls")(wait_for_ready=True)
        outgoing: asyncio.Queue[bytes] = asyncio.Queue()

        async def read() -> None:
            async for data in stream:
                waiting.put(_decode_chunk(data))

        async def write() -> None:
            while True:
                await stream.write(await outgoing.get())

        tasks = [asyncio.create_task(read()), asyncio.create_task(write())]

        async def close() -> None:
            for task in tasks:
                task.cancel()
            await channel.close()

        return _Connected(lambda call: waiting.call(call, outgoing.put_nowait), close)


async def _patiently(connect: Callable[[], Any]) -> Any:
    for _ in range(500):
        try:
            return await connect()
        except OSError:
            await asyncio.sleep(0.02)
    raise TimeoutError("nobody listens")


TRANSPORTS: dict[str, Transport] = {
    "grpc.aio": Grpc(),
    "pyzmq": ZeroMq(),
    "channel, Unix": Channel(False),
    "channel, TLS": Channel(True),
}
