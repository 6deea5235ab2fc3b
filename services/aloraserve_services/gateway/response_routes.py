"""``POST /v1/responses``: OpenAI's Responses API over chats, without a memory of its own."""

from __future__ import annotations

import functools

from starlette.requests import Request
from starlette.responses import Response

from aloraserve.serving.request import Origin
from aloraserve.tenants import Tenants
from aloraserve.wire.response_request import ResponsesRequest
from aloraserve_services.gateway.answered import CallResponses
from aloraserve_services.gateway.answers.response import ResponseAnswer, unbegun_response
from aloraserve_services.gateway.call_slots import CallSlots
from aloraserve_services.gateway.calls import ChatCalls, GuardedCall
from aloraserve_services.gateway.origins import origin_of
from aloraserve_services.gateway.request_body import BodyReader
from aloraserve_services.gateway.routes import Routes


class ResponseRoutes:
    """Answers requests for responses, each as the chat that it stands for.

    Args:
        tenants: know who may call.
        chats: begins the answers.
        bodies: reads requests' bodies.
        slots: of calls in progress.
        responses: makes responses of calls.
    """

    def __init__(
        self, tenants: Tenants, chats: ChatCalls, bodies: BodyReader, slots: CallSlots, responses: CallResponses
    ) -> None:
        self._tenants = tenants
        self._chats = chats
        self._bodies = bodies
        self._slots = slots
        self._responses = responses

    def add_to(self, routes: Routes) -> None:
        """Add this route to an application's."""
        routes.add("POST", "/v1/responses", self.respond, is_call=True)

    async def respond(self, request: Request) -> Response:
        """Answer a request for a response."""
        origin = origin_of(request, self._tenants)
        self._slots.check(origin.caller)
        body = await self._bodies.read(ResponsesRequest, request, origin.caller)
        return await self._responses.respond(
            request,
            origin,
            body,
            lambda: self._answer(body, origin),
            functools.partial(unbegun_response, body, origin.request_id),
        )

    async def _answer(self, body: ResponsesRequest, origin: Origin) -> Response:
        call = await self._chats.begin(body.chat(), origin)
        assert not isinstance(call, GuardedCall), "a request for a response has no guards"
        answer = ResponseAnswer.of(call.first)
        answer.repeated = body.repeated()
        return await self._responses.answered(answer, call)
