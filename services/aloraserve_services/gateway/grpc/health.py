"""``grpc.health.v1.Health``: says what ``/readyz`` says, to whoever asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from google.protobuf.message import Message
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from aloraserve.errors import OverloadedError, UnknownServiceError
from aloraserve_services.gateway.grpc.call import GrpcCall
from aloraserve_services.gateway.grpc.method import GrpcMethod
from aloraserve_services.gateway.grpc.requests import parsed

LOOK_EVERY_S = 0.5
"""At the state, for those who watch it."""
MAX_WATCHERS = 64
"""Nobody needs a key to watch; calls that are in progress are bounded."""


class HealthMethods:
    """See the module's docstring.

    Args:
        services: names of those that are served; the empty one is the server.
        is_ready: whether a new call would reach a replica.
    """

    def __init__(self, services: Collection[str], is_ready: Callable[[], bool]) -> None:
        self._services = {"", *services}
        self._is_ready = is_ready
        self._watchers = 0

    def methods(self) -> dict[str, GrpcMethod]:
        """Return the methods by their names."""
        return {
            "/grpc.health.v1.Health/Check": GrpcMethod(answer=self.check, is_open=True),
            "/grpc.health.v1.Health/Watch": GrpcMethod(stream=self.watch, is_open=True),
        }

    async def check(self, message: bytes, call: GrpcCall) -> Message:
        """Say whether a service takes calls."""
        service = parsed(HealthCheckRequest, message).service
        if service not in self._services:
            raise UnknownServiceError(f"there is no service {service[:80]!r} here")
        return HealthCheckResponse(status=self._status(service))

    async def watch(self, message: bytes, call: GrpcCall) -> None:
        """Say whether a service takes calls, now and whenever that changes."""
        service = parsed(HealthCheckRequest, message).service
        if self._watchers >= MAX_WATCHERS:
            raise OverloadedError("too many clients are watching; retry later")
        self._watchers += 1
        try:
            await self._watch(service, call)
        finally:
            self._watchers -= 1

    async def _watch(self, service: str, call: GrpcCall) -> None:
        said = None
        while True:
            if (status := self._status(service)) != said:
                await call.write(HealthCheckResponse(status=status).SerializeToString())
                said = status
            await asyncio.sleep(LOOK_EVERY_S)

    def _status(self, service: str) -> HealthCheckResponse.ServingStatus:
        if service not in self._services:
            return HealthCheckResponse.SERVICE_UNKNOWN
        return HealthCheckResponse.SERVING if self._is_ready() else HealthCheckResponse.NOT_SERVING
