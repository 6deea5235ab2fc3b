"""A client of a gateway's gRPC edge, and a server for it in this process."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status

from aloraserve_services.gateway.grpc.edge import GrpcEdge
from aloraserve_services.grpc_server.limits import GrpcLimits
from aloraserve_services.grpc_server.server import GrpcServer
from aloraserve_services.grpc_server.status import DETAILS_KEY

Kind = TypeVar("Kind", bound=Message)
Metadata = Iterable[tuple[str, str]]


class GrpcCaller:
    """Calls methods of ``aloraserve.v1`` by their short names, such as ``Inference/Chat``.

    Args:
        channel: to the server.
    """

    def __init__(self, channel: Any) -> None:
        self.channel = channel

    def unary(self, name: str, message: Message | bytes, metadata: Metadata = (), timeout: float | None = 10) -> Any:
        return self.channel.unary_unary(_full(name))(_raw(message), metadata=tuple(metadata), timeout=timeout)

    def stream(self, name: str, message: Message | bytes, metadata: Metadata = (), timeout: float | None = 10) -> Any:
        return self.channel.unary_stream(_full(name))(_raw(message), metadata=tuple(metadata), timeout=timeout)

    async def answer(self, name: str, message: Message | bytes, kind: type[Kind], metadata: Metadata = ()) -> Kind:
        return kind.FromString(await self.unary(name, message, metadata))

    async def parts(self, name: str, message: Message | bytes, kind: type[Kind], metadata: Metadata = ()) -> list[Kind]:
        return [kind.FromString(raw) async for raw in self.stream(name, message, metadata)]


@contextlib.asynccontextmanager
async def served(edge: GrpcEdge, **limits: Any) -> AsyncIterator[GrpcCaller]:
    """Serve an edge on a free port, and close it in the end."""
    server = GrpcServer([edge], GrpcLimits(**{"max_message_bytes": 1 << 20, **limits}))
    port = await server.start("127.0.0.1", 0)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield GrpcCaller(channel)
    finally:
        edge.cut_off()
        await server.close()


def details_of(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """Return the details of a status by their short names."""
    trailers = dict(error.trailing_metadata())
    status = Status.FromString(trailers[DETAILS_KEY])
    assert (status.code, status.message) == (error.code().value[0], error.details())
    found: dict[str, Any] = {}
    for detail in status.details:
        name = detail.type_url.rpartition(".")[2]
        found[name] = _unpacked(detail, name)
    return found


def _unpacked(detail: Any, name: str) -> Any:
    from google.rpc import error_details_pb2

    message = getattr(error_details_pb2, name)()
    assert detail.Unpack(message)
    return message


def _full(name: str) -> str:
    return f"/{name}" if name.startswith("grpc.") else f"/aloraserve.v1.{name}"


def _raw(message: Message | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()
