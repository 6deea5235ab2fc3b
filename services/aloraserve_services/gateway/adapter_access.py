"""Who may do what to which adapters: administrators everything, others what is their tenant's own."""

from __future__ import annotations

from dataclasses import replace

import msgspec
from starlette.requests import Request

from aloraserve.adapters.catalog import AdapterRecord, EntryQuery
from aloraserve.adapters.management import AdapterManager, RegistrationRequest
from aloraserve.adapters.sources import SourcePolicy, parse_reference
from aloraserve.errors import InvalidRequestError, NotPermittedError, UnknownAdapterError
from aloraserve.tenants import Caller, Role, Tenants
from aloraserve.wire.adapters import AdapterCheckRequest, AdapterRequest


class AdapterAccess:
    """Checks requests about adapters.

    Args:
        tenants: know who asks.
        manager: knows whose an adapter is.
        sources: that tenants may name; administrators may name those of the manager's.
        quota: versions that each tenant may have.
    """

    def __init__(self, tenants: Tenants, manager: AdapterManager, sources: SourcePolicy, *, quota: int) -> None:
        self._tenants = tenants
        self._manager = manager
        self._sources = sources
        self._quota = quota

    def caller(self, request: Request, role: Role) -> Caller:
        """Return who asks.

        Raises:
            AuthenticationError: nobody knows.
            NotPermittedError: the key does not have the role.
        """
        return self._tenants.authenticate(request.headers.get("authorization"), role)

    async def check_own(self, caller: Caller, reference: str) -> None:
        """Pass an adapter that a caller may manage.

        Raises:
            UnknownAdapterError: it is another's, or is not there: which of both is not said.
        """
        if not caller.is_admin and (await self._manager.get(reference)).owner != caller.tenant:
            raise UnknownAdapterError(f"adapter {reference[:80]!r} is not in the catalog")

    def own(self, caller: Caller, record: AdapterRecord) -> AdapterRecord:
        """Return what a caller may see of a record: not the versions that another had deleted before."""
        return record if caller.is_admin else record.owned_by(caller.tenant)

    def query(self, caller: Caller, query: EntryQuery) -> EntryQuery:
        """Return a list's query, of what a caller may manage.

        Raises:
            NotPermittedError: it asks for another tenant's.
        """
        return query if caller.is_admin else replace(query, owner=self._owner(caller, query.owner))

    async def registration(self, caller: Caller, body: AdapterCheckRequest) -> RegistrationRequest:
        """Return what is to be registered, or checked.

        Raises:
            InvalidRequestError: its owner is not a tenant, or its name is not one that the owner may give.
            NotPermittedError: it is to be another tenant's, or public.
            AdapterSourceError: the caller may not name its source.
        """
        given = {name: value for name, value in msgspec.structs.asdict(body).items() if name != "stream"}
        if isinstance(body, AdapterRequest):
            given["owner"], given["visibility"] = self._owned(caller, body)
            await self._check_name(caller, body.name, given["owner"])
        if caller.is_admin:
            return RegistrationRequest(**given)
        self._check_source(body.source)
        return RegistrationRequest(**given | {"owner": caller.tenant, "quota": self._quota})

    async def _check_name(self, caller: Caller, name: str, owner: str | None) -> None:
        """Refuse a name that might be another tenant's: whether it is there then says nothing of others."""
        space, _, own_name = name.rpartition(".")
        if caller.is_admin:
            if space != owner and self._tenants.knows(space):
                raise InvalidRequestError(f"name is {name[:80]!r}, which tenant {space!r} alone may have", param="name")
        elif (space != owner or not own_name) and not await self._is_own(caller, name):
            raise InvalidRequestError(
                f"name is {name[:80]!r}; accepted is {owner}.NAME, with a NAME without dots", param="name"
            )

    async def _is_own(self, caller: Caller, name: str) -> bool:
        """Return whether a name is a tenant's own already, such as one that an administrator registered for it."""
        try:
            record = await self._manager.get(name)
        except (UnknownAdapterError, InvalidRequestError):
            return False
        return not record.is_deleted and record.owner == caller.tenant

    def _owned(self, caller: Caller, body: AdapterRequest) -> tuple[str | None, str]:
        if not caller.is_admin:
            if body.visibility == "public":
                raise NotPermittedError("visibility is public: that needs a key with the role admin")
            return self._owner(caller, body.owner), "private"
        if body.owner is not None and not (self._tenants.is_open or self._tenants.knows(body.owner)):
            raise InvalidRequestError(f"owner is {body.owner[:80]!r}; there is no such tenant", param="owner")
        return body.owner, body.visibility or "public"

    def _owner(self, caller: Caller, owner: str | None) -> str | None:
        if owner not in (None, caller.tenant):
            raise NotPermittedError("owner is another tenant: that needs a key with the role admin")
        return caller.tenant

    def _check_source(self, reference: str) -> None:
        source = parse_reference(reference)
        if source.scheme == "file":
            self._sources.folder(source)
        else:
            self._sources.check(source)
