"""The routes of OpenAI's API: read, authenticate, have it generated, write."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Send

from aloraserve.adapters import AdapterRegistry
from aloraserve.errors import InvalidRequestError
from aloraserve.serving.attempts import Dispatcher
from aloraserve.serving.generation import Generation
from aloraserve.serving.prompt_builder import PromptBuilder
from aloraserve.serving.request import GenerationRequest, Origin
from aloraserve.serving.session import SESSION_HEADER, session_of
from aloraserve.tenants import Tenants
from aloraserve.wire import ChatRequest, CompletionRequest, ModelEntry, ModelList, parse_body
from aloraserve.wire.body import Request as Body
from aloraserve_services.gateway.answers import Answer, ChatAnswer, CompletionAnswer
from aloraserve_services.gateway.headers import serving_headers
from aloraserve_services.gateway.request_context import context_of

MIN_BODY_BYTES = 256 << 10
BODY_BYTES_PER_TOKEN = 64
"""How long a body may be: several times what the longest prompt takes as text or as token ids. What is longer would be
read, parsed and tokenized only to be refused, while other calls wait."""


class OpenAIRoutes:
    """Answers chats, completions and the list of models.

    Args:
        tenants: know who may call.
        prompts: makes requests of bodies.
        dispatcher: has them answered.
        base_model: its served name.
        adapters: that are served now.
        replicas: returns ids of the replicas that can be reached.
        max_model_len: tokens of a prompt and its answer together.
    """

    def __init__(
        self,
        tenants: Tenants,
        prompts: PromptBuilder,
        dispatcher: Dispatcher,
        *,
        base_model: str,
        adapters: AdapterRegistry,
        replicas: Callable[[], Sequence[str]],
        max_model_len: int,
    ) -> None:
        self._tenants = tenants
        self._prompts = prompts
        self._dispatcher = dispatcher
        self._base_model = base_model
        self._adapters = adapters
        self._replicas = replicas
        self._max_model_len = max_model_len
        self._max_body_bytes = max(MIN_BODY_BYTES, BODY_BYTES_PER_TOKEN * max_model_len)
        self._created = int(time.time())

    def add_to(self, app: FastAPI) -> None:
        """Add the routes to an application."""
        app.add_api_route("/v1/chat/completions", self.chat, methods=["POST"])
        app.add_api_route("/v1/completions", self.completions, methods=["POST"])
        app.add_api_route("/v1/models", self.models, methods=["GET"])
        app.add_api_route("/healthz", self.healthz, methods=["GET"])
        app.add_api_route("/readyz", self.readyz, methods=["GET"])

    async def chat(self, request: Request) -> Response:
        """Answer a conversation."""
        origin = self._origin(request)
        body = await self._body(ChatRequest, request)
        return await self._answer(ChatAnswer, await self._prompts.chat(body, origin), body.include_usage)

    async def completions(self, request: Request) -> Response:
        """Continue a text or token ids."""
        origin = self._origin(request)
        body = await self._body(CompletionRequest, request)
        return await self._answer(CompletionAnswer, await self._prompts.completion(body, origin), body.include_usage)

    async def models(self, request: Request) -> Response:
        """List the base model and the adapters."""
        self._tenants.authenticate(request.headers.get("authorization"))
        base, created = self._base_model, self._created
        entries = [ModelEntry(id=base, created=created, root=base)]
        for adapter in self._adapters.all():
            entries.append(
                ModelEntry(id=adapter.name, created=created, root=adapter.name, parent=base, kind=adapter.kind)
            )
        return _json(ModelList(data=entries).to_json())

    async def healthz(self) -> Response:
        """Say that this process answers."""
        return PlainTextResponse("ok\n")

    async def readyz(self) -> Response:
        """Say whether a replica can take a call."""
        ready = bool(self._replicas())
        return PlainTextResponse("ready\n" if ready else "no replica\n", status_code=200 if ready else 503)

    def _origin(self, request: Request) -> Origin:
        """Return where a request comes from; who may not call does not get here."""
        caller = self._tenants.authenticate(request.headers.get("authorization"))
        context = context_of(request)
        return Origin(
            context.request_id,
            caller,
            context.arrived_at,
            session=session_of(request.headers.get(SESSION_HEADER), caller),
            traceparent=context.traceparent,
        )

    async def _body(self, kind: type[Body], request: Request) -> Body:
        """Return a request's body without ever holding more of it than is accepted."""
        parts: list[bytes] = []
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > self._max_body_bytes:
                raise InvalidRequestError(
                    f"the body has more than {self._max_body_bytes} bytes, the most that is accepted for a context of "
                    f"{self._max_model_len} tokens"
                )
            parts.append(part)
        return parse_body(kind, b"".join(parts), self._max_body_bytes)

    async def _answer(self, kind: type[Answer], request: GenerationRequest, include_usage: bool) -> Response:
        generation = await self._dispatcher.generate(request)
        answer = kind.of(generation)
        headers = serving_headers(generation)
        if not request.is_streamed:
            return _json(await answer.whole(generation), headers)
        return EventStream(answer.stream(generation, include_usage=include_usage), generation, headers)


class EventStream(StreamingResponse):
    """Server-sent events; a client that goes away aborts the generation at once.

    Args:
        events: to send.
        generation: that they are written from.
        headers: of the response.
    """

    def __init__(self, events: AsyncIterator[bytes], generation: Generation, headers: dict[str, str]) -> None:
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._generation = generation

    async def stream_response(self, send: Send) -> None:
        """Send all events; end what generates them in any case."""
        async with contextlib.aclosing(self._generation):
            await super().stream_response(send)


def _json(text: str, headers: dict[str, str] | None = None) -> Response:
    return Response(text, media_type="application/json", headers=headers)
