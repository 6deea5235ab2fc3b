"""The HTTP routes of a bare engine: OpenAI's, and what routers of other projects ask an engine for."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Send

from aloraserve.errors import AloraserveError
from aloraserve.serving.engine_messages import EngineChunk
from aloraserve.wire import ChatRequest, CompletionRequest, ModelList, parse_body, reply_for
from aloraserve.wire.version import ServerVersion
from aloraserve_services.bare_engine.engine import BareEngine
from aloraserve_services.bare_engine.metrics import metrics_text
from aloraserve_services.gateway.answers import Answer, ChatAnswer, CompletionAnswer
from aloraserve_services.gateway.prompt_list import merged


class EngineRoutes:
    """Answers for one engine, whoever asks.

    Args:
        bare: the engine.
    """

    def __init__(self, bare: BareEngine) -> None:
        self._bare = bare

    def app(self) -> Starlette:
        """Return the HTTP application."""
        posts = {"/v1/chat/completions": self.chat, "/v1/completions": self.completions}
        gets = {
            "/v1/models": self.models,
            "/health": self.health,
            "/version": self.version,
            "/metrics": self.metrics,
            # sglang-router and vllm-router ask for both under both names.
            **dict.fromkeys(("/get_model_info", "/model_info"), self.model_info),
            **dict.fromkeys(("/get_server_info", "/server_info"), self.server_info),
        }
        return Starlette(
            routes=[
                *(Route(path, answering, methods=["POST"]) for path, answering in posts.items()),
                *(Route(path, answering, methods=["GET"]) for path, answering in gets.items()),
            ],
            exception_handlers={AloraserveError: _failed},
        )

    async def chat(self, request: Request) -> Response:
        """Answer a conversation."""
        return await self._answer(ChatAnswer, [parse_body(ChatRequest, await request.body())], request)

    async def completions(self, request: Request) -> Response:
        """Continue texts or token ids."""
        bodies = parse_body(CompletionRequest, await request.body()).split()
        return await self._answer(CompletionAnswer, bodies, request)

    async def models(self, request: Request) -> Response:
        """List the base model and the adapters."""
        plan = self._bare.plan
        listed = ModelList.of(plan.served_name, self._bare.registry.listed(), created=0, dtype=plan.dtype)
        return Response(listed.to_json(), media_type="application/json")

    async def version(self, request: Request) -> Response:
        """Say which API this is, as vLLM does."""
        return Response(ServerVersion().to_json(), media_type="application/json")

    async def health(self, request: Request) -> Response:
        """Say whether the engine lives."""
        return Response(status_code=503 if self._bare.engine.is_dead else 200)

    async def metrics(self, request: Request) -> Response:
        """Show the engine's state."""
        return PlainTextResponse(metrics_text(self._bare), media_type="text/plain; version=0.0.4")

    async def model_info(self, request: Request) -> Response:
        """Say which model this is."""
        plan = self._bare.plan
        path = str(plan.model_path)
        return JSONResponse({"model_path": path, "tokenizer_path": path, "served_model_name": plan.served_name})

    async def server_info(self, request: Request) -> Response:
        """Say how much this engine takes."""
        plan, engine = self._bare.plan, self._bare.engine
        return JSONResponse(
            {
                "model_id": plan.served_name,
                "served_model_name": plan.served_name,
                "max_model_len": plan.settings.max_model_len,
                "max_num_batched_tokens": engine.step_tokens,
                "max_running_requests": plan.max_requests,
                "max_total_num_tokens": engine.kv_tokens,
            }
        )

    async def _answer(
        self, kind: type[Answer], bodies: Sequence[ChatRequest | CompletionRequest], request: Request
    ) -> Response:
        made = [await self._bare.request(body, request.headers.get("x-request-id")) for body in bodies]
        answer = kind(made)
        chunks = merged([self._bare.generate(one) for one in made], made[0].sampling.n)
        if not made[0].is_streamed:
            return Response(await answer.whole(chunks), media_type="application/json")
        return EventStream(answer.stream(chunks, include_usage=bodies[0].include_usage), chunks)


class EventStream(StreamingResponse):
    """Server-sent events; a client that goes away aborts the call at once.

    Args:
        events: to send.
        chunks: that they are written from.
    """

    def __init__(self, events: AsyncIterator[bytes], chunks: AsyncGenerator[EngineChunk]) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._chunks = chunks

    async def stream_response(self, send: Send) -> None:
        """Send all events; end the call in any case."""
        async with contextlib.aclosing(self._chunks):
            await super().stream_response(send)


async def _failed(request: Request, error: Exception) -> Response:
    reply = reply_for(error)
    return JSONResponse(reply.body, status_code=reply.status, headers=reply.headers)
