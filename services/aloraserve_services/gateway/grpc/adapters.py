"""``aloraserve.v1.Adapters``: each method calls the manager, and writes what it returns."""

from __future__ import annotations

import asyncio
from typing import Any

from google.protobuf.message import Message

from aloraserve.adapters.management import AdapterManager, Registration
from aloraserve.tenants import Role
from aloraserve.v1 import adapters_pb2 as messages
from aloraserve.wire.adapter_answers import outcome_json, report_json
from aloraserve.wire.adapters import AdapterCheckRequest, AdapterRequest, AliasRequest, ReasonRequest
from aloraserve.wire.protobuf import json_of, message_of
from aloraserve_services.gateway.adapter_access import AdapterAccess
from aloraserve_services.gateway.adapter_query import entry_query
from aloraserve_services.gateway.grpc.call import GrpcCall
from aloraserve_services.gateway.grpc.method import GrpcMethod
from aloraserve_services.gateway.grpc.requests import parsed, read_body
from aloraserve_services.gateway.own_adapters import OwnAdapters
from aloraserve_services.gateway.registration_events import EVENT_EVERY_S

SERVICE = "/aloraserve.v1.Adapters"


class AdapterMethods:
    """Answers administrators, and tenants about what is their own, where there are keys.

    Args:
        manager: does what is asked for.
        access: knows who may ask for what.
    """

    def __init__(self, manager: AdapterManager, access: AdapterAccess) -> None:
        self._manager = manager
        self._access = access

    def methods(self) -> dict[str, GrpcMethod]:
        """Return the methods by their names."""
        answers = {
            "Check": self.check,
            "List": self.list,
            "Get": self.get,
            "SetAlias": self.set_alias,
            "RemoveAlias": self.remove_alias,
            "Rollback": self.roll_back,
            "Retire": self.retire,
            "Delete": self.delete,
        }
        method = GrpcMethod(role=Role.ADAPTERS)
        found = {f"{SERVICE}/{name}": method._replace(answer=answer) for name, answer in answers.items()}
        return found | {f"{SERVICE}/Register": method._replace(stream=self.register)}

    async def register(self, message: bytes, call: GrpcCall) -> None:
        """Register an adapter, and send how far it is."""
        body = read_body(AdapterRequest, json_of(parsed(messages.RegisterRequest, message)))
        registration = await self._own(call).register(body)
        ending = asyncio.ensure_future(registration.finished())
        while not ending.done():
            await call.write(_progress(registration.as_dict()))
            await asyncio.wait({ending}, timeout=EVENT_EVERY_S)
        await call.write(_progress(_outcome(registration)))
        ending.result()

    async def check(self, message: bytes, call: GrpcCall) -> Message:
        """Fetch and check an adapter, keep nothing, and report all problems."""
        body = read_body(AdapterCheckRequest, json_of(parsed(messages.CheckRequest, message)))
        return message_of(messages.CheckResponse, report_json(await self._own(call).check(body)))

    async def list(self, message: bytes, call: GrpcCall) -> Message:
        """List versions by name, a page at a time."""
        content = json_of(parsed(messages.ListRequest, message))
        labels = content.pop("labels", {})
        query = entry_query({name: str(value) for name, value in content.items()}, labels)
        return message_of(messages.ListResponse, await self._own(call).page(query))

    async def get(self, message: bytes, call: GrpcCall) -> Message:
        """Say all that is known of an adapter: its versions, where they are, and its aliases."""
        reference = parsed(messages.GetRequest, message).reference
        return _record(messages.GetResponse, await self._own(call).get(reference))

    async def set_alias(self, message: bytes, call: GrpcCall) -> Message:
        """Point an alias to a version, or give a version a share of its conversations."""
        content = json_of(parsed(messages.SetAliasRequest, message))
        name, alias = content.pop("name", ""), content.pop("alias", "")
        record = await self._own(call).set_alias(name, alias, read_body(AliasRequest, content))
        return _record(messages.SetAliasResponse, record)

    async def remove_alias(self, message: bytes, call: GrpcCall) -> Message:
        """Remove an alias; the versions stay."""
        request = parsed(messages.RemoveAliasRequest, message)
        return _record(messages.RemoveAliasResponse, await self._own(call).remove_alias(request.name, request.alias))

    async def roll_back(self, message: bytes, call: GrpcCall) -> Message:
        """Point an alias where it pointed before."""
        request = parsed(messages.RollbackRequest, message)
        record = await self._own(call).roll_back(request.name, request.alias, _reason(request.reason))
        return _record(messages.RollbackResponse, record)

    async def retire(self, message: bytes, call: GrpcCall) -> Message:
        """Have an adapter, or a version, take no new calls."""
        request = parsed(messages.RetireRequest, message)
        return _record(
            messages.RetireResponse, await self._own(call).retire(request.reference, _reason(request.reason))
        )

    async def delete(self, message: bytes, call: GrpcCall) -> Message:
        """Delete an adapter or a version; one in use only by force."""
        request = parsed(messages.DeleteRequest, message)
        record = await self._own(call).delete(request.reference, _reason(request.reason), force=request.force)
        return _record(messages.DeleteResponse, record)

    def _own(self, call: GrpcCall) -> OwnAdapters:
        return OwnAdapters(self._manager, self._access, call.caller)


def _record(kind: type[Message], record: dict[str, Any]) -> Message:
    return message_of(kind, {"record": record})


def _reason(text: str) -> str:
    return read_body(ReasonRequest, {"reason": text}).reason


def _outcome(registration: Registration) -> dict[str, Any]:
    """Return what came of a registration; why it failed is in the call's status."""
    return {name: value for name, value in outcome_json(registration).items() if name != "error"}


def _progress(content: dict[str, Any]) -> bytes:
    return message_of(messages.RegisterResponse, {"registration": content}).SerializeToString()
