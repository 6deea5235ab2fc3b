"""``aloraserve.v1.Adapters``: each method calls the manager, and writes what it returns."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.message import Message

from aloraserve.adapters.catalog import AdapterRecord, Reference
from aloraserve.adapters.management import AdapterManager, Registration
from aloraserve.tenants import Role
from aloraserve.v1 import adapters_pb2 as messages
from aloraserve.wire.adapter_answers import entry_json, outcome_json, record_json, report_json
from aloraserve.wire.adapters import AdapterCheckRequest, AdapterRequest, AliasRequest, ReasonRequest
from aloraserve.wire.protobuf import json_of, message_of
from aloraserve_services.gateway.adapter_access import AdapterAccess
from aloraserve_services.gateway.adapter_query import entry_query
from aloraserve_services.gateway.grpc.call import GrpcCall
from aloraserve_services.gateway.grpc.method import GrpcMethod
from aloraserve_services.gateway.grpc.requests import parsed, read_body
from aloraserve_services.gateway.registration_events import EVENT_EVERY_S

SERVICE = "/aloraserve.v1.Adapters"
RecordAnswer = Callable[[bytes], Awaitable[AdapterRecord]]


class AdapterMethods:
    """Answers administrators alone, where there are keys.

    Args:
        manager: does what is asked for.
        access: knows what may be registered.
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
            "SetAlias": _record_method(messages.SetAliasResponse, self.set_alias),
            "RemoveAlias": _record_method(messages.RemoveAliasResponse, self.remove_alias),
            "Rollback": _record_method(messages.RollbackResponse, self.roll_back),
            "Retire": _record_method(messages.RetireResponse, self.retire),
            "Delete": _record_method(messages.DeleteResponse, self.delete),
        }
        found = {f"{SERVICE}/{name}": GrpcMethod(answer=answer, role=Role.ADMIN) for name, answer in answers.items()}
        return found | {f"{SERVICE}/Register": GrpcMethod(stream=self.register, role=Role.ADMIN)}

    async def register(self, message: bytes, call: GrpcCall) -> None:
        """Register an adapter, and send how far it is."""
        body = read_body(AdapterRequest, json_of(parsed(messages.RegisterRequest, message)))
        registration = await self._manager.register(await self._access.registration(call.caller, body))
        ending = asyncio.ensure_future(registration.finished())
        while not ending.done():
            await call.write(_progress(registration.as_dict()))
            await asyncio.wait({ending}, timeout=EVENT_EVERY_S)
        await call.write(_progress(_outcome(registration)))
        ending.result()

    async def check(self, message: bytes, call: GrpcCall) -> Message:
        """Fetch and check an adapter, keep nothing, and report all problems."""
        body = read_body(AdapterCheckRequest, json_of(parsed(messages.CheckRequest, message)))
        report = await self._manager.validate(await self._access.registration(call.caller, body))
        return message_of(messages.CheckResponse, report_json(report))

    async def list(self, message: bytes, call: GrpcCall) -> Message:
        """List versions by name, a page at a time."""
        content = json_of(parsed(messages.ListRequest, message))
        labels = content.pop("labels", {})
        page = await self._manager.list(entry_query({name: str(value) for name, value in content.items()}, labels))
        usages = await asyncio.gather(*map(self._manager.usage, page.entries))
        shown = [entry_json(entry, usage) for entry, usage in zip(page.entries, usages, strict=True)]
        return message_of(messages.ListResponse, {"data": shown, "next": page.next})

    async def get(self, message: bytes, call: GrpcCall) -> Message:
        """Say all that is known of an adapter: its versions, where they are, and its aliases."""
        reference = parsed(messages.GetRequest, message).reference
        record = await self._manager.get(reference)
        meant = record.meant(Reference.read(reference))
        usages = await asyncio.gather(*map(self._manager.usage, meant))
        versions = [entry_json(entry, usage) for entry, usage in zip(meant, usages, strict=True)]
        return message_of(messages.GetResponse, {"record": record_json(record) | {"versions": versions}})

    async def set_alias(self, message: bytes) -> AdapterRecord:
        """Point an alias to a version, or give a version a share of its conversations."""
        content = json_of(parsed(messages.SetAliasRequest, message))
        alias = f"{content.pop('name', '')}@{content.pop('alias', '')}"
        body = read_body(AliasRequest, content)
        if body.share is None:
            return await self._manager.point(alias, body.target, reason=body.reason)
        return await self._manager.canary(alias, body.target, body.share, reason=body.reason)

    async def remove_alias(self, message: bytes) -> AdapterRecord:
        """Remove an alias; the versions stay."""
        request = parsed(messages.RemoveAliasRequest, message)
        return await self._manager.remove_alias(f"{request.name}@{request.alias}")

    async def roll_back(self, message: bytes) -> AdapterRecord:
        """Point an alias where it pointed before."""
        request = parsed(messages.RollbackRequest, message)
        alias = f"{request.name}@{request.alias}"
        return await self._manager.roll_back(alias, reason=_reason(request.reason))

    async def retire(self, message: bytes) -> AdapterRecord:
        """Have an adapter, or a version, take no new calls."""
        request = parsed(messages.RetireRequest, message)
        return await self._manager.retire(request.reference, reason=_reason(request.reason))

    async def delete(self, message: bytes) -> AdapterRecord:
        """Delete an adapter or a version; one in use only by force."""
        request = parsed(messages.DeleteRequest, message)
        return await self._manager.delete(request.reference, reason=_reason(request.reason), force=request.force)


def _record_method(kind: type[Message], change: RecordAnswer) -> Callable[[bytes, GrpcCall], Awaitable[Message]]:
    """Return a method that answers with an adapter's record."""

    async def answer(message: bytes, call: GrpcCall) -> Message:
        return message_of(kind, {"record": record_json(await change(message))})

    return answer


def _reason(text: str) -> str:
    return read_body(ReasonRequest, {"reason": text}).reason


def _outcome(registration: Registration) -> dict[str, Any]:
    """Return what came of a registration; why it failed is in the call's status."""
    return {name: value for name, value in outcome_json(registration).items() if name != "error"}


def _progress(content: dict[str, Any]) -> bytes:
    return message_of(messages.RegisterResponse, {"registration": content}).SerializeToString()
