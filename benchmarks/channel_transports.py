"""Transports that ``benchmarks/channel.py`` compares: the same messages over grpc.aio, ZeroMQ and plain sockets."""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec


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
_LENGTH = struct.Struct("<I")


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


class Sockets:
    """asyncio's protocols on a Unix socket; all that is ready leaves in one write."""

    def address(self, path: Path) -> str:
        return f"{path}.s"

    async def serve(self, address: str, answer: Answer) -> None:
        loop = asyncio.get_running_loop()

        async def run(peer: _Peer, call: Call) -> None:
            async for chunk in answer(call):
                peer.send(_encode(chunk))

        tasks: set[asyncio.Task[None]] = set()

        def received(peer: _Peer, data: bytes) -> None:
            task = loop.create_task(run(peer, _decode_call(data)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await loop.create_unix_server(lambda: _Peer(received), address)
        await server.serve_forever()

    async def connect(self, address: str) -> Client:
        loop, waiting = asyncio.get_running_loop(), Waiting()
        made = lambda: _Peer(lambda _, data: waiting.put(_decode_chunk(data)))  # noqa: E731
        _, peer = await _patiently(lambda: loop.create_unix_connection(made, address))
        return _Connected(lambda call: waiting.call(call, peer.send), peer.close)


class _Peer(asyncio.Protocol):
    def __init__(self, received: Callable[[_Peer, bytes], None]) -> None:
        self._received = received
        self._rest = bytearray()
        self._ready: list[bytes] = []
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = bytes(self._rest) + data
            self._rest.clear()
        start, end = 0, len(data)
        while end - start >= 4:
            stop = start + 4 + _LENGTH.unpack_from(data, start)[0]
            if stop > end:
                break
            self._received(self, data[start + 4 : stop])
            start = stop
        self._rest += data[start:]

    def send(self, data: bytes) -> None:
        if not self._ready:
            self._loop.call_soon(self._flush)
        self._ready += (_LENGTH.pack(len(data)), data)

    def _flush(self) -> None:
        data = b"".join(self._ready)
        self._ready.clear()
        self._transport.write(data)

    async def close(self) -> None:
        self._transport.close()


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


TRANSPORTS: dict[str, Transport] = {"grpc.aio": Grpc(), "pyzmq": ZeroMq(), "sockets": Sockets()}
