"""Where a request comes from, as the HTTP edge knows it."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from aloraserve.errors import AloraserveError
from aloraserve.serving.request import Origin
from aloraserve.serving.session import SESSION_HEADER, session_of
from aloraserve.serving.time_limits import TIMEOUT_HEADER, asked_seconds
from aloraserve.tenants import Role, Tenants
from aloraserve_services.gateway.request_context import context_of
from aloraserve_services.gateway.routes import Handler


def may_call(tenants: Tenants, authorization: str | None) -> bool:
    """Return whether an ``Authorization`` header is a caller's."""
    try:
        tenants.authenticate(authorization)
    except AloraserveError:
        return False
    return True


def for_administrators(tenants: Tenants, handler: Handler) -> Handler:
    """Return a handler that answers administrators alone, and finds the id of the caller's key in the state."""

    async def checked(request: Request) -> Response:
        caller = tenants.authenticate(request.headers.get("authorization"), Role.ADMIN)
        request.state.key_id = caller.key_id
        return await handler(request)

    return checked


def origin_of(request: Request, tenants: Tenants) -> Origin:
    """Return where a request comes from; who may not call does not get here.

    Raises:
        AuthenticationError: there is no key, or nobody has it.
        InvalidRequestError: the time that it asks for is not one that is accepted.
    """
    caller = tenants.authenticate(request.headers.get("authorization"))
    context = context_of(request)
    asked_s = asked_seconds(request.headers.get(TIMEOUT_HEADER))
    return Origin(
        context.request_id,
        caller,
        context.arrived_at,
        session=session_of(request.headers.get(SESSION_HEADER), caller),
        traceparent=context.traceparent,
        deadline=None if asked_s is None else context.arrived_at + asked_s,
    )
