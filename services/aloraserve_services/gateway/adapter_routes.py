"""The routes for who manages adapters: each calls the manager, and writes what it returns."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from aloraserve.adapters.catalog import AdapterRecord, Reference
from aloraserve.adapters.catalog.file import MAX_FILE_BYTES
from aloraserve.adapters.management import AdapterManager
from aloraserve.tenants import Caller, Role
from aloraserve.wire.adapter_answers import entry_json, record_json, report_json
from aloraserve.wire.adapters import AdapterCheckRequest, AdapterRequest, AliasRequest, ReasonRequest
from aloraserve_services.gateway.adapter_access import AdapterAccess
from aloraserve_services.gateway.adapter_query import LISTED, checked_query, entry_query, flag, label_query
from aloraserve_services.gateway.answer_headers import EVENTS
from aloraserve_services.gateway.registration_events import registration_events
from aloraserve_services.gateway.request_body import BodyReader
from aloraserve_services.gateway.routes import PARAMETER, Handler, Routes, as_json, parameters


class AdapterRoutes:
    """Answers administrators, and tenants about what is their own, where there are keys.

    Args:
        manager: does what is asked for.
        access: knows who may ask for what.
        bodies: reads requests' bodies.
    """

    def __init__(self, manager: AdapterManager, access: AdapterAccess, bodies: BodyReader) -> None:
        self._manager = manager
        self._access = access
        self._bodies = bodies

    def add_to(self, routes: Routes) -> None:
        """Add these routes to an application's."""
        adapter, alias = f"/v1/adapters/{PARAMETER}", f"/v1/adapters/{PARAMETER}/aliases/{PARAMETER}"
        for method, path, handler in (
            ("GET", "/v1/adapters", self.list),
            ("POST", "/v1/adapters", self.register),
            ("POST", "/v1/adapter-checks", self.check),
            ("GET", adapter, self.get),
            ("DELETE", adapter, self.delete),
            ("POST", f"{adapter}/retire", self.retire),
            ("GET", f"{adapter}/aliases", self.aliases),
            ("PUT", alias, self.set_alias),
            ("DELETE", alias, self.remove_alias),
            ("POST", f"{alias}/rollback", self.roll_back),
        ):
            routes.add(method, path, self._checked(handler, Role.ADAPTERS))
        routes.add("GET", "/v1/adapter-catalog", self._checked(self.export, Role.ADMIN))
        routes.add("POST", "/v1/adapter-catalog", self._checked(self.import_file, Role.ADMIN))

    async def list(self, request: Request) -> Response:
        """List versions by name, a page at a time."""
        query = self._access.query(_caller(request), entry_query(checked_query(request, LISTED), label_query(request)))
        page = await self._manager.list(query)
        usages = await asyncio.gather(*map(self._manager.usage, page.entries))
        shown = [entry_json(entry, usage) for entry, usage in zip(page.entries, usages, strict=True)]
        return as_json({"object": "list", "data": shown, "next": page.next})

    async def get(self, request: Request) -> Response:
        """Say all that is known of an adapter: its versions, where they are, and its aliases."""
        [reference] = parameters(request)
        record = self._access.own(_caller(request), await self._manager.get(reference))
        meant = record.meant(Reference.read(reference))
        usages = await asyncio.gather(*map(self._manager.usage, meant))
        versions = [entry_json(entry, usage) for entry, usage in zip(meant, usages, strict=True)]
        return as_json(record_json(record) | {"versions": versions})

    async def register(self, request: Request) -> Response:
        """Register an adapter; answers once it is available, or with events of how far it is."""
        body = await self._bodies.read(AdapterRequest, request)
        registration = await self._manager.register(await self._access.registration(_caller(request), body))
        if body.stream:
            return StreamingResponse(registration_events(registration), media_type="text/event-stream", headers=EVENTS)
        return as_json(entry_json(await registration.finished()), 201)

    async def check(self, request: Request) -> Response:
        """Fetch and check an adapter, keep nothing, and report all problems."""
        body = await self._bodies.read(AdapterCheckRequest, request)
        report = await self._manager.validate(await self._access.registration(_caller(request), body))
        return as_json(report_json(report))

    async def retire(self, request: Request) -> Response:
        """Have an adapter, or a version, take no new calls."""
        [reference] = parameters(request)
        return self._record(request, await self._manager.retire(reference, reason=await self._reason(request)))

    async def delete(self, request: Request) -> Response:
        """Delete an adapter or a version; one in use only with ``force=true``."""
        [reference] = parameters(request)
        query = checked_query(request, ("force", "reason"))
        record = await self._manager.delete(reference, reason=query.get("reason", ""), force=flag(query, "force"))
        return self._record(request, record)

    async def aliases(self, request: Request) -> Response:
        """List an adapter's aliases."""
        [name] = parameters(request)
        return as_json({"object": "list", "data": record_json(await self._manager.get(name))["aliases"]})

    async def set_alias(self, request: Request) -> Response:
        """Point an alias to a version, or give a version a share of its conversations."""
        alias = "@".join(parameters(request))
        body = await self._bodies.read(AliasRequest, request)
        if body.share is None:
            return self._record(request, await self._manager.point(alias, body.target, reason=body.reason))
        canary = await self._manager.canary(alias, body.target, body.share, reason=body.reason)
        return self._record(request, canary)

    async def remove_alias(self, request: Request) -> Response:
        """Remove an alias; the versions stay."""
        return self._record(request, await self._manager.remove_alias("@".join(parameters(request))))

    async def roll_back(self, request: Request) -> Response:
        """Point an alias where it pointed before."""
        alias = "@".join(parameters(request))
        return self._record(request, await self._manager.roll_back(alias, reason=await self._reason(request)))

    async def export(self, request: Request) -> Response:
        """Give the whole catalog as one file."""
        return Response(await self._manager.export(), media_type="application/json")

    async def import_file(self, request: Request) -> Response:
        """Put the adapters of a file into the catalog."""
        query = checked_query(request, ("skip_existing",))
        content = await self._bodies.read_file(request, MAX_FILE_BYTES)
        result = await self._manager.import_file(content, skip_existing=flag(query, "skip_existing"))
        return as_json({"imported": result.imported, "skipped": result.skipped})

    async def _reason(self, request: Request) -> str:
        """Return the reason of a body. One without a body is refused: a web page of another site may send that."""
        return (await self._bodies.read(ReasonRequest, request)).reason

    def _record(self, request: Request, record: AdapterRecord) -> Response:
        return as_json(record_json(self._access.own(_caller(request), record)))

    def _checked(self, handler: Handler, role: Role) -> Handler:
        """Return a handler that is reached by who has a role, and of others' adapters by administrators alone."""

        async def checked(request: Request) -> Response:
            request.state.caller = caller = self._access.caller(request, role)
            for reference in request.scope.get("path_parameters", ())[:1]:
                await self._access.check_own(caller, reference)
            return await handler(request)

        return checked


def _caller(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller
