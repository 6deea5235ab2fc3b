"""The routes for who manages keys and tenants; a key is shown once, when it is made."""

from __future__ import annotations

import json
import time

import structlog
from starlette.requests import Request
from starlette.responses import Response

from aloraserve.tenants import Tenants
from aloraserve.tenants.keys import NewKey
from aloraserve.tenants.manager import TenantManager
from aloraserve.wire.tenants import KeyRequest, LimitsRequest, RotationRequest, key_json, tenant_json
from aloraserve_services.gateway.adapter_query import checked_query
from aloraserve_services.gateway.origins import for_administrators
from aloraserve_services.gateway.request_body import BodyReader
from aloraserve_services.gateway.routes import PARAMETER, Routes, as_json, parameters

log = structlog.get_logger(__name__)
_ONCE = {"Cache-Control": "no-store"}


class TenantRoutes:
    """Answers administrators alone, where there are keys.

    Args:
        manager: does what is asked for.
        tenants: know who may ask.
        bodies: reads requests' bodies.
    """

    def __init__(self, manager: TenantManager, tenants: Tenants, bodies: BodyReader) -> None:
        self._manager = manager
        self._tenants = tenants
        self._bodies = bodies

    def add_to(self, routes: Routes) -> None:
        """Add these routes to an application's."""
        key, tenant = f"/v1/admin/keys/{PARAMETER}", f"/v1/admin/tenants/{PARAMETER}"
        for method, path, handler in (
            ("GET", "/v1/admin/keys", self.keys),
            ("POST", "/v1/admin/keys", self.create),
            ("POST", f"{key}/rotate", self.rotate),
            ("DELETE", key, self.revoke),
            ("GET", "/v1/admin/tenants", self.list),
            ("GET", tenant, self.get),
            ("PATCH", tenant, self.set_limits),
            ("DELETE", tenant, self.delete),
        ):
            routes.add(method, path, for_administrators(self._tenants, handler))

    async def keys(self, request: Request) -> Response:
        """List keys, all or a tenant's, without the keys themselves."""
        tenant, now = checked_query(request, ("tenant",)).get("tenant"), time.time()
        records = await self._manager.list() if tenant is None else [await self._manager.get(tenant)]
        shown = [key_json(key, record.tenant, now) for record in records for key in record.keys]
        return as_json({"object": "list", "data": shown})

    async def create(self, request: Request) -> Response:
        """Make a key."""
        body = await self._bodies.read(KeyRequest, request)
        new = await self._manager.create_key(body.tenant, body.roles, label=body.label, expires_in_s=body.expires_in_s)
        log.info(
            "key_created", key_id=new.record.id, tenant=new.tenant, roles=list(new.record.roles), by=_asker(request)
        )
        return _new(new)

    async def rotate(self, request: Request) -> Response:
        """Make a key in the place of another."""
        body = await self._bodies.read(RotationRequest, request)
        [key_id] = parameters(request)
        new = await self._manager.rotate_key(key_id, grace_s=body.grace_s)
        log.info("key_rotated", key_id=key_id, new_key_id=new.record.id, tenant=new.tenant, by=_asker(request))
        return _new(new)

    async def revoke(self, request: Request) -> Response:
        """Have a key be valid no more."""
        [key_id] = parameters(request)
        key, tenant = await self._manager.revoke_key(key_id)
        log.info("key_revoked", key_id=key.id, tenant=tenant, by=_asker(request))
        return as_json(key_json(key, tenant, time.time()))

    async def list(self, request: Request) -> Response:
        """List tenants with their limits and keys."""
        found = [record for record in await self._manager.list() if record.tenant is not None]
        return as_json({"object": "list", "data": [tenant_json(record, time.time()) for record in found]})

    async def get(self, request: Request) -> Response:
        """Say what is known of a tenant."""
        [name] = parameters(request)
        return as_json(tenant_json(await self._manager.get(name), time.time()))

    async def set_limits(self, request: Request) -> Response:
        """Change a tenant's limits."""
        body = await self._bodies.read(LimitsRequest, request)
        [name] = parameters(request)
        return as_json(tenant_json(await self._manager.set_limits(name, body.changes), time.time()))

    async def delete(self, request: Request) -> Response:
        """Delete a tenant and its keys."""
        [name] = parameters(request)
        await self._manager.delete_tenant(name)
        log.info("tenant_deleted", tenant=name, by=_asker(request))
        return as_json({"deleted": name})


def _asker(request: Request) -> str | None:
    """Return the public id of the key that a request came with, None for one of the settings and without one."""
    key_id: str | None = request.state.key_id
    return key_id


def _new(new: NewKey) -> Response:
    shown = {"key": new.text} | key_json(new.record, new.tenant, time.time())
    return Response(json.dumps(shown), 201, _ONCE, "application/json")
