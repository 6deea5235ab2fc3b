"""The routes of OpenAI's API: read, authenticate, have it generated, write."""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from aloraserve.adapters import AdapterRegistry, ServedName
from aloraserve.adapters.catalog.entry import SHOWN_DIGITS
from aloraserve.adapters.served import resolved
from aloraserve.serving.request import Origin
from aloraserve.tenants import Tenants
from aloraserve.wire import ChatRequest, CompletionRequest, ModelEntry, ModelList
from aloraserve.wire.version import ServerVersion
from aloraserve_services.gateway.answered import CallResponses, json_response
from aloraserve_services.gateway.call_answers import chat_answer, completion_answer
from aloraserve_services.gateway.call_slots import CallSlots
from aloraserve_services.gateway.calls import ChatCalls, CompletionCalls, GuardedCall
from aloraserve_services.gateway.origins import origin_of
from aloraserve_services.gateway.refused_chat import RefusedChat
from aloraserve_services.gateway.request_body import BodyReader
from aloraserve_services.gateway.routes import NAME, Routes, parameters


class OpenAIRoutes:
    """Answers chats, completions and the list of models.

    Args:
        tenants: know who may call.
        chats: begins the answers to chats.
        completions: begins the answers to completions.
        bodies: reads requests' bodies.
        slots: of calls in progress.
        responses: makes responses of calls.
        base_model: its served name.
        dtype: of its weights.
        adapters: that are served now.
        serves: returns whether a new call would reach a replica, or be held until there is one.
    """

    def __init__(
        self,
        tenants: Tenants,
        chats: ChatCalls,
        completions: CompletionCalls,
        bodies: BodyReader,
        slots: CallSlots,
        responses: CallResponses,
        *,
        base_model: str,
        dtype: str,
        adapters: AdapterRegistry,
        serves: Callable[[], bool],
    ) -> None:
        self._tenants = tenants
        self._chats = chats
        self._completions = completions
        self._bodies = bodies
        self._slots = slots
        self._responses = responses
        self._base_model = base_model
        self._dtype = dtype
        self._adapters = adapters
        self._serves = serves
        self._created = int(time.time())

    def add_to(self, routes: Routes) -> None:
        """Add these routes to an application's."""
        routes.add("POST", "/v1/chat/completions", self.chat, is_call=True)
        routes.add("POST", "/v1/completions", self.completions, is_call=True)
        routes.add("GET", "/v1/models", self.models)
        routes.add("GET", f"/v1/models/{NAME}", self.model)
        routes.add("GET", "/version", self.version)
        routes.add("GET", "/healthz", self.healthz)
        routes.add("GET", "/readyz", self.readyz)
        routes.add("GET", "/health", self.health)
        routes.add("GET", "/ping", self.health)
        routes.add("POST", "/ping", self.health)
        routes.add("GET", "/-/healthz", self.serve_healthz)

    async def chat(self, request: Request) -> Response:
        """Answer a conversation."""
        origin = origin_of(request, self._tenants)
        self._slots.check(origin.caller)
        body = await self._bodies.read(ChatRequest, request, origin.caller)
        return await self._responses.respond(request, origin, body, lambda: self._chat(body, origin))

    async def completions(self, request: Request) -> Response:
        """Continue texts or token ids: each prompt is a call of its own."""
        origin = origin_of(request, self._tenants)
        self._slots.check(origin.caller)
        body = await self._bodies.read(CompletionRequest, request, origin.caller)
        return await self._responses.respond(request, origin, body, lambda: self._completion(body, origin))

    async def _chat(self, body: ChatRequest, origin: Origin) -> Response:
        call = await self._chats.begin(body, origin)
        if isinstance(call, GuardedCall):
            return RefusedChat(call).response()
        return await self._responses.answered(chat_answer(call), call)

    async def _completion(self, body: CompletionRequest, origin: Origin) -> Response:
        call = await self._completions.begin(body, origin)
        return await self._responses.answered(completion_answer(call), call)

    async def models(self, request: Request) -> Response:
        """List the base model and the adapters that the caller may use; to an administrator, the public ones."""
        caller = self._tenants.authenticate(request.headers.get("authorization"), None)
        listed = self._adapters.listed(caller.tenant)
        return json_response(ModelList.of(self._base_model, listed, self._created, self._dtype).to_json())

    async def model(self, request: Request) -> Response:
        """Say what one name is; also one that is not listed, such as an exact version."""
        caller = self._tenants.authenticate(request.headers.get("authorization"), None)
        [name] = parameters(request)
        if name == self._base_model:
            [base] = ModelList.of(name, (), self._created, self._dtype).data
            return json_response(base.to_json())
        version = await resolved(self._adapters, name, tenant=caller.tenant)
        listed = (served for served in self._adapters.listed(caller.tenant) if served.name == name)
        served = next(listed, ServedName(name, f"{version.name}@{version.digest[:SHOWN_DIGITS]}", version))
        return json_response(ModelEntry.of(served, self._base_model, self._created, self._dtype).to_json())

    async def version(self, request: Request) -> Response:
        """Say which API this is, as vLLM does."""
        return json_response(ServerVersion().to_json())

    async def healthz(self, request: Request) -> Response:
        """Say that this process answers."""
        return PlainTextResponse("ok\n")

    async def health(self, request: Request) -> Response:
        """Say so as vLLM does, without a body; 503 where its own would be: a call would reach no engine."""
        return Response(status_code=200 if self._serves() and not self._slots.is_leaving else 503)

    async def serve_healthz(self, request: Request) -> Response:
        """Answer as Serve's own proxy does: by this KubeRay's probe of a pod knows whether it takes calls."""
        is_leaving = self._slots.is_leaving
        return PlainTextResponse("draining" if is_leaving else "success", status_code=503 if is_leaving else 200)

    async def readyz(self, request: Request) -> Response:
        """Say whether a new call would reach a replica."""
        reason = "draining" if self._slots.is_leaving else "" if self._serves() else "no replica"
        return PlainTextResponse(f"{reason or 'ready'}\n", status_code=503 if reason else 200)
