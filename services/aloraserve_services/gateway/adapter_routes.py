"""The routes for who manages adapters: each calls the manager, and writes what it returns."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from aloraserve.adapters.catalog.file import MAX_FILE_BYTES
from aloraserve.adapters.management import AdapterManager
from aloraserve.tenants import Role
from aloraserve.wire.adapter_answers import entry_json, report_json
from aloraserve.wire.adapters import AdapterCheckRequest, AdapterRequest, AliasRequest, ReasonRequest
from aloraserve_services.gateway.adapter_access import AdapterAccess
from aloraserve_services.gateway.adapter_query import LISTED, checked_query, entry_query, flag, label_query
from aloraserve_services.gateway.answer_headers import EVENTS
from aloraserve_services.gateway.own_adapters import OwnAdapters
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
        query = entry_query(checked_query(request, LISTED), label_query(request))
        return as_json({"object": "list"} | await self._own(request).page(query))

    async def get(self, request: Request) -> Response:
        """Say all that is known of an adapter: its versions, where they are, and its aliases."""
        return as_json(await self._own(request).get(*parameters(request)))

    async def register(self, request: Request) -> Response:
        """Register an adapter; answers once it is available, or with events of how far it is."""
        body = await self._bodies.read(AdapterRequest, request)
        registration = await self._own(request).register(body)
        if body.stream:
            return StreamingResponse(registration_events(registration), media_type="text/event-stream", headers=EVENTS)
        return as_json(entry_json(await registration.finished()), 201)

    async def check(self, request: Request) -> Response:
        """Fetch and check an adapter, keep nothing, and report all problems."""
        body = await self._bodies.read(AdapterCheckRequest, request)
        return as_json(report_json(await self._own(request).check(body)))

    async def retire(self, request: Request) -> Response:
        """Have an adapter, or a version, take no new calls."""
        [reference] = parameters(request)
        return as_json(await self._own(request).retire(reference, await self._reason(request)))

    async def delete(self, request: Request) -> Response:
        """Delete an adapter or a version; one in use only with ``force=true``."""
        query = checked_query(request, ("force", "reason"))
        reason, force = query.get("reason", ""), flag(query, "force")
        [reference] = parameters(request)
        return as_json(await self._own(request).delete(reference, reason, force=force))

    async def aliases(self, request: Request) -> Response:
        """List an adapter's aliases."""
        return as_json({"object": "list", "data": await self._own(request).aliases(*parameters(request))})

    async def set_alias(self, request: Request) -> Response:
        """Point an alias to a version, or give a version a share of its conversations."""
        body = await self._bodies.read(AliasRequest, request)
        name, alias = parameters(request)
        return as_json(await self._own(request).set_alias(name, alias, body))

    async def remove_alias(self, request: Request) -> Response:
        """Remove an alias; the versions stay."""
        return as_json(await self._own(request).remove_alias(*parameters(request)))

    async def roll_back(self, request: Request) -> Response:
        """Point an alias where it pointed before."""
        name, alias = parameters(request)
        return as_json(await self._own(request).roll_back(name, alias, await self._reason(request)))

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

    def _own(self, request: Request) -> OwnAdapters:
        return OwnAdapters(self._manager, self._access, request.state.caller)

    def _checked(self, handler: Handler, role: Role) -> Handler:
        """Return a handler that is reached by who has a role."""

        async def checked(request: Request) -> Response:
            request.state.caller = self._access.caller(request, role)
            return await handler(request)

        return checked
