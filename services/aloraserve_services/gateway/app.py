"""The HTTP edge as a Serve deployment: authenticate, validate, render, route, answer."""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from ray import serve
from starlette.exceptions import HTTPException

from aloraserve.errors import (
    AloraserveError,
    DirectoryUnavailableError,
    InvalidRequestError,
    ReplicaLostError,
    UnknownReceiptError,
)
from aloraserve.routing.base import Call
from aloraserve.routing.expected_ttft import ExpectedTtftTuning
from aloraserve.routing.policies import make_policy, policy_kind
from aloraserve.routing.receipts import ReceiptRing
from aloraserve.routing.router import Router
from aloraserve.serving.session import SESSION_HEADER, session_of
from aloraserve.telemetry.directory import ObservedDirectory
from aloraserve.telemetry.exposition import CONTENT_TYPE
from aloraserve.telemetry.tracing import TRACING, Value
from aloraserve.tenants import Caller, Role, StaticTenants
from aloraserve.wire import ChatRequest, CompletionRequest, ModelEntry, ModelList, parse_body, reply_for
from aloraserve.wire.responses import SavingsUsage
from aloraserve_services.gateway.answers import Answer, ChatAnswer, CompletionAnswer
from aloraserve_services.gateway.known_replicas import known_replicas
from aloraserve_services.gateway.metrics import METRICS
from aloraserve_services.gateway.middleware import CountedRequests
from aloraserve_services.gateway.process import GatewayProcess
from aloraserve_services.gateway.prompts import Prompt, PromptMaker
from aloraserve_services.gateway.request_context import current_request
from aloraserve_services.gateway.savings import SavingsReporter
from aloraserve_services.gateway.sending import Sender, Sent, Tries
from aloraserve_services.gateway.stream_metrics import MeteredChunks
from aloraserve_services.plan import FleetPlan

ENGINE = "engine"
MIN_BODY_BYTES = 256 << 10
BODY_BYTES_A_TOKEN = 64
"""How long a body may be: several times what the longest prompt takes as text or as token ids. What is longer would be
read, parsed and tokenized only to be refused, while other calls wait."""
DEFAULT_LISTED = 20
MAX_LISTED = 1000
log = structlog.get_logger(__name__)


async def _failed(request: Request, error: Exception) -> Response:
    reply = reply_for(error)
    if reply.status >= 500:
        log.error("request_failed", path=request.url.path, cause=type(error).__name__, exc_info=error)
    return JSONResponse(reply.body, status_code=reply.status, headers=reply.headers)


async def _no_such_thing(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    allowed = (error.headers or {}).get("Allow", "another method")
    message = {
        404: f"there is nothing at {request.url.path[:120]!r}",
        405: f"{request.method} is not allowed at {request.url.path[:120]!r}; allowed is {allowed}",
    }.get(error.status_code, str(error.detail))
    body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}
    return JSONResponse(body, status_code=error.status_code, headers=dict(error.headers or {}))


class Gateway:
    """Answers OpenAI's API and chooses the replica of each call.

    Args:
        plan: the fleet's.
        engines: Serve's handle of the engine deployment.
    """

    def __init__(self, plan: FleetPlan, engines: Any) -> None:
        from transformers import AutoTokenizer

        self._plan = plan
        self._created = int(time.time())
        self._max_body_bytes = max(MIN_BODY_BYTES, BODY_BYTES_A_TOKEN * plan.settings.max_model_len)
        settings = plan.settings
        self._tenants = StaticTenants(settings.api_keys, settings.admin_keys, is_public=settings.is_public)
        self._receipts = ReceiptRing(plan.settings.receipts)
        self._prompts = PromptMaker(plan, AutoTokenizer.from_pretrained(str(plan.model_path), local_files_only=True))
        self._directory = ObservedDirectory(plan.open_directory(), METRICS.directory)
        self._app_name = serve.get_replica_context().app_name
        self._process = GatewayProcess(plan.settings, plan.open_endpoints())
        self._savings = SavingsReporter(plan)
        router = Router(
            self._directory,
            # Gateways that draw should not all draw the same.
            make_policy(
                settings.policy,
                seed=secrets.randbits(32),
                tuning=ExpectedTtftTuning(overflow_wait_s=settings.overflow_wait_s),
            ),
            plan.keyspace,
            budget_s=plan.settings.lookup_budget_ms / 1000,
            known_replicas=self._replicas,
            use_directory=policy_kind(plan.settings.policy).asks_directory,
        )
        self._sender = Sender(router, engines.options(method_name="generate", stream=True), self._receipts)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the HTTP application; Serve calls this in the replica, so that nothing of it is pickled."""
        app = FastAPI(title="aloraserve", docs_url=None, redoc_url=None, openapi_url=None, lifespan=self._lifespan)
        app.add_api_route("/v1/chat/completions", self.chat, methods=["POST"])
        app.add_api_route("/v1/completions", self.completions, methods=["POST"])
        app.add_api_route("/v1/models", self.models, methods=["GET"])
        app.add_api_route("/v1/replicas", self.replicas, methods=["GET"])
        app.add_api_route("/v1/receipts", self.receipts, methods=["GET"])
        app.add_api_route("/v1/receipts/{request_id}", self.receipt, methods=["GET"])
        app.add_api_route("/v1/savings", self.savings, methods=["GET"])
        app.add_api_route("/v1/metrics/targets", self.metrics_targets, methods=["GET"])
        app.add_api_route("/healthz", self.healthz, methods=["GET"])
        app.add_api_route("/readyz", self.readyz, methods=["GET"])
        app.add_api_route("/metrics", self.metrics, methods=["GET"])
        app.add_middleware(CountedRequests)
        app.add_exception_handler(AloraserveError, _failed)
        app.add_exception_handler(HTTPException, _no_such_thing)
        return app

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        async with self._process.lifespan(app), self._savings.flushing():
            yield

    async def chat(self, request: Request) -> Response:
        """Answer a conversation."""
        caller = self._caller(request)
        body = parse_body(ChatRequest, await self._body(request), self._max_body_bytes)
        prompt = await self._prompts.chat(body)
        return await self._answer(ChatAnswer, prompt, body, caller, _session(request, caller))

    async def completions(self, request: Request) -> Response:
        """Continue a text or token ids."""
        caller = self._caller(request)
        body = parse_body(CompletionRequest, await self._body(request), self._max_body_bytes)
        prompt = await self._prompts.completion(body)
        return await self._answer(CompletionAnswer, prompt, body, caller, _session(request, caller))

    async def models(self, request: Request) -> Response:
        """List the base model and the adapters."""
        self._caller(request)
        base = self._plan.served_name
        entries = [ModelEntry(id=base, created=self._created, root=base)]
        for adapter in self._plan.adapters:
            entries.append(
                ModelEntry(id=adapter.name, created=self._created, root=adapter.name, parent=base, kind=adapter.kind)
            )
        return _json(ModelList(data=entries).to_json())

    async def replicas(self, request: Request) -> Response:
        """Say what each replica holds and does; what ``aloraserve status`` shows."""
        self._caller(request)
        try:
            states, directory = [asdict(state) for state in await self._directory.states()], "ok"
        except DirectoryUnavailableError:
            states, directory = [], "cannot be reached"
        content = {
            "model": self._plan.served_name,
            "dtype": self._plan.dtype,
            "policy": self._plan.settings.policy,
            "block_tokens": self._plan.keyspace.block_tokens,
            "directory": directory,
            "known": list(self._replicas()),
            "replicas": states,
            "adapters": [
                {"name": one.name, "kind": one.kind, "rank": one.rank, "untrained": one.untrained}
                for one in self._plan.adapters
            ],
            "refused": [asdict(one) for one in self._plan.refused],
        }
        return _json(json.dumps(content))

    async def receipts(self, request: Request) -> Response:
        """List the last routing receipts, the newest first; for administrators."""
        self._caller(request, Role.ADMIN)
        latest = self._receipts.latest(_limit(request.query_params.get("limit")))
        return _json(json.dumps({"receipts": [one.as_dict() for one in latest]}))

    async def receipt(self, request: Request) -> Response:
        """Say how one request was routed; for administrators."""
        self._caller(request, Role.ADMIN)
        request_id = str(request.path_params["request_id"])
        found = self._receipts.get(request_id)
        if found is None:
            raise UnknownReceiptError(
                f"there is no receipt of request {request_id[:80]!r}; the last {self._plan.settings.receipts} that "
                "this gateway routed are kept"
            )
        return _json(json.dumps(found.as_dict()))

    async def healthz(self) -> Response:
        """Say that this process answers."""
        return PlainTextResponse("ok\n")

    async def readyz(self) -> Response:
        """Say whether a replica can take a call."""
        ready = bool(self._replicas())
        return PlainTextResponse("ready\n" if ready else "no replica\n", status_code=200 if ready else 503)

    async def metrics(self) -> Response:
        """Give the gateway's metrics to Prometheus."""
        return Response(METRICS.text(), media_type=CONTENT_TYPE)

    async def savings(self, request: Request) -> Response:
        """Say what reuse across adapters saved lately, by adapter."""
        self._caller(request)
        return _json(json.dumps(await self._savings.report(request.query_params.get("window"))))

    async def metrics_targets(self, request: Request) -> Response:
        """List every process that has metrics, as Prometheus' ``http_sd_configs`` reads it; for administrators."""
        self._caller(request, Role.ADMIN)
        return _json(json.dumps(await self._process.targets()))

    async def _body(self, request: Request) -> bytes:
        """Return the request's body without ever holding more of it than is accepted."""
        parts: list[bytes] = []
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > self._max_body_bytes:
                raise InvalidRequestError(
                    f"the body has more than {self._max_body_bytes} bytes, the most that is accepted for a context of "
                    f"{self._plan.settings.max_model_len} tokens"
                )
            parts.append(part)
        return b"".join(parts)

    def _caller(self, request: Request, role: Role = Role.TENANT) -> Caller:
        return self._tenants.authenticate(request.headers.get("authorization"), role)

    def _replicas(self) -> tuple[str, ...]:
        return known_replicas(ENGINE, self._app_name)

    async def _answer(
        self,
        kind: type[Answer],
        prompt: Prompt,
        body: ChatRequest | CompletionRequest,
        caller: Caller,
        session: str | None,
    ) -> Response:
        request_id = current_request().request_id
        keys = self._plan.keyspace.keys(prompt.token_ids, cache_salt=caller.cache_salt, adapter=prompt.effect)
        call = Call(
            prompt_tokens=len(prompt.token_ids),
            block_tokens=self._plan.keyspace.block_tokens,
            keys=keys,
            adapter=prompt.adapter.name if prompt.adapter else None,
            session=session,
        )
        if body.stream:
            sent = await self._sender.send(prompt, call, request_id, caller)
            self._count(prompt, sent)
            events = self._new_answer(kind, request_id, prompt, sent).stream(
                _metered(prompt, sent), include_usage=body.include_usage
            )
            return StreamingResponse(_closed(events), media_type="text/event-stream", headers=_headers(prompt, sent))
        tries = Tries()
        while True:
            sent = await self._sender.send(prompt, call, request_id, caller, tries)
            try:
                text = await self._new_answer(kind, request_id, prompt, sent).whole(_metered(prompt, sent))
            except ReplicaLostError:
                # The client has seen nothing of the lost answer, so another one may take its place.
                tries.lose(sent.replica)
                if not tries.left:
                    raise
            else:
                self._count(prompt, sent)
                return _json(text, _headers(prompt, sent))

    @staticmethod
    def _new_answer(kind: type[Answer], request_id: str, prompt: Prompt, sent: Sent) -> Answer:
        with_logprobs = prompt.sampling.logprobs is not None
        savings = SavingsUsage.of(sent.savings, sent.ttft_s) if sent.savings else None
        return kind(request_id, prompt.model, len(prompt.token_ids), prompt.sampling.n, with_logprobs, savings)

    def _count(self, prompt: Prompt, sent: Sent) -> None:
        labels = (prompt.kind, METRICS.adapters.label(prompt.adapter.name if prompt.adapter else None))
        METRICS.ttft.labels(*labels).observe(sent.ttft_s)
        METRICS.prompt_tokens.labels(*labels).inc(len(prompt.token_ids))
        METRICS.cached_tokens.labels(*labels).inc(sent.cached_tokens)
        METRICS.decisions.labels(sent.decision.policy).inc()
        METRICS.overlap_tokens.labels(prompt.kind).inc(sent.overlap_tokens)
        METRICS.missed_tokens.labels(prompt.kind).inc(max(0, sent.overlap_tokens - sent.cached_tokens))
        if sent.savings is not None:
            METRICS.observe_savings(*labels, sent.savings, sent.ttft_s)
            self._savings.note(prompt, sent.savings, sent.ttft_s)
        TRACING.annotate(_facts(prompt, sent))


def _metered(prompt: Prompt, sent: Sent) -> MeteredChunks:
    return MeteredChunks(sent.replies, prompt.kind, prompt.adapter.name if prompt.adapter else None)


def _facts(prompt: Prompt, sent: Sent) -> dict[str, Value]:
    """Return what a request's span says of how it was served."""
    return {
        "aloraserve.kind": prompt.kind,
        "aloraserve.adapter": prompt.adapter.name if prompt.adapter else "",
        "aloraserve.replica": sent.label,
        "aloraserve.prompt_tokens": len(prompt.token_ids),
        "aloraserve.cached_tokens": sent.cached_tokens,
        "aloraserve.ttft_s": sent.ttft_s,
    }


def _session(request: Request, caller: Caller) -> str | None:
    return session_of(request.headers.get(SESSION_HEADER), caller)


def _limit(text: str | None) -> int:
    """Return how many receipts are asked for."""
    if text is None:
        return DEFAULT_LISTED
    if not (text.isascii() and text.isdecimal() and len(text) <= 4 and 1 <= int(text) <= MAX_LISTED):
        raise InvalidRequestError(f"limit is {text[:20]!r}; 1 to {MAX_LISTED} are accepted", param="limit")
    return int(text)


def _headers(prompt: Prompt, sent: Sent) -> dict[str, str]:
    """Return what a client may want to know of how its call was served."""
    savings = sent.savings
    estimated = (
        {}
        if savings is None
        else {
            "x-aloraserve-saved-ttft-ms": f"{savings.saved_s * 1000:.1f}",
            "x-aloraserve-counterfactual-ttft-ms": f"{(sent.ttft_s + savings.saved_s) * 1000:.1f}",
            "x-aloraserve-savings-confidence": f"{savings.confidence:.2f}",
        }
    )
    return estimated | {
        "x-aloraserve-replica": sent.label,
        "x-aloraserve-kind": prompt.kind,
        "x-aloraserve-cached-tokens": str(sent.cached_tokens),
        "x-aloraserve-prompt-tokens": str(len(prompt.token_ids)),
        "x-aloraserve-ttft-ms": f"{sent.ttft_s * 1000:.1f}",
        "x-aloraserve-prefill-ms": f"{sent.prefill_s * 1000:.1f}",
        "x-aloraserve-policy": sent.decision.policy,
        "x-aloraserve-reason": sent.reason.encode("latin-1", "replace").decode("latin-1")[:400],
    }


async def _closed(events: AsyncIterator[str]) -> AsyncIterator[str]:
    """Pass events on, and close their source also when the client goes away in the middle."""
    try:
        async for event in events:
            yield event
    finally:
        await events.aclose()  # type: ignore[attr-defined]


def _json(text: str, headers: dict[str, str] | None = None) -> Response:
    return Response(text, media_type="application/json", headers=headers)
