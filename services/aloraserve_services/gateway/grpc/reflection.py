"""``grpc.reflection``: describes the services of this API, and nothing else that the process knows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

from aloraserve.v1 import adapters_pb2, inference_pb2, intrinsics_pb2
from aloraserve_services.gateway.grpc.call import GrpcCall
from aloraserve_services.gateway.grpc.method import GrpcMethod
from aloraserve_services.gateway.grpc.requests import parsed

FILES = (inference_pb2, intrinsics_pb2, adapters_pb2, health_pb2)
VERSIONS = ("v1", "v1alpha")
"""Both have the same messages."""


def service_names() -> list[str]:
    """Return the full names of the services of this API."""
    return [service.full_name for file in FILES for service in file.DESCRIPTOR.services_by_name.values()]


class ReflectionMethods:
    """See the module's docstring."""

    def __init__(self) -> None:
        pool = DescriptorPool()
        for file in FILES:
            _add(pool, file.DESCRIPTOR)
        self._servicer = ReflectionServicer(service_names(), pool)

    def methods(self) -> dict[str, GrpcMethod]:
        """Return the method by its names."""
        method = GrpcMethod(talk=self.talk, is_open=True)
        return {f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo": method for version in VERSIONS}

    async def talk(self, messages: AsyncIterator[bytes], call: GrpcCall) -> None:
        """Answer each question."""
        questions = (parsed(ServerReflectionRequest, message) async for message in messages)
        async for answer in self._servicer.ServerReflectionInfo(questions, None):
            await call.write(answer.SerializeToString())


def _add(pool: DescriptorPool, file: Any) -> None:
    """Add a file, and before it those that it imports; one that is there already changes nothing."""
    for imported in file.dependencies:
        _add(pool, imported)
    pool.AddSerializedFile(file.serialized_pb)
