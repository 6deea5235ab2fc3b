"""The routes of OpenAI's API: read, authenticate, have it generated, write."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Sequence

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from aloraserve.adapters import AdapterRegistry, ServedName
from aloraserve.adapters.catalog.entry import SHOWN_DIGITS
from aloraserve.adapters.served import resolved
from aloraserve.serving.attempts import Dispatcher
from aloraserve.serving.generation import Generation
from aloraserve.serving.invocation_finder import InvocationFinder
from aloraserve.serving.invokable import InvokableAdapters
from aloraserve.serving.prompts.prompt_builder import PromptBuilder
from aloraserve.serving.request import GenerationRequest
from aloraserve.serving.self_invocation import SelfInvocation
from aloraserve.tenants import Tenants
from aloraserve.wire import ChatRequest, CompletionRequest, ModelEntry, ModelList
from aloraserve.wire.version import ServerVersion
from aloraserve_services.gateway.answers import Answer, ChatAnswer, CompletionAnswer
from aloraserve_services.gateway.call_slots import CallSlots
from aloraserve_services.gateway.event_stream import EventStream
from aloraserve_services.gateway.headers import serving_headers
from aloraserve_services.gateway.intrinsic_results import guard_result_of
from aloraserve_services.gateway.intrinsics import ChatIntrinsics
from aloraserve_services.gateway.origins import origin_of
from aloraserve_services.gateway.prompt_list import begin_all, merged
from aloraserve_services.gateway.refused_chat import RefusedChat
from aloraserve_services.gateway.request_body import BodyReader
from aloraserve_services.gateway.routes import PARAMETER, Routes, parameters


class OpenAIRoutes:
    """Answers chats, completions and the list of models.

    Args:
        tenants: know who may call.
        prompts: makes requests of bodies.
        dispatcher: has them answered.
        intrinsics: guard chats and look at their answers.
        bodies: reads requests' bodies.
        slots: of calls in progress.
        base_model: its served name.
        adapters: that are served now.
        replicas: returns ids of the replicas that can be reached.
    """

    def __init__(
        self,
        tenants: Tenants,
        prompts: PromptBuilder,
        dispatcher: Dispatcher,
        intrinsics: ChatIntrinsics,
        bodies: BodyReader,
        slots: CallSlots,
        *,
        base_model: str,
        adapters: AdapterRegistry,
        replicas: Callable[[], Sequence[str]],
    ) -> None:
        self._tenants = tenants
        self._prompts = prompts
        self._dispatcher = dispatcher
        self._intrinsics = intrinsics
        self._bodies = bodies
        self._slots = slots
        self._base_model = base_model
        self._adapters = adapters
        self._replicas = replicas
        self._invokable = InvokableAdapters(adapters)
        self._created = int(time.time())

    def add_to(self, routes: Routes) -> None:
        """Add these routes to an application's."""
        routes.add("POST", "/v1/chat/completions", self.chat)
        routes.add("POST", "/v1/completions", self.completions)
        routes.add("GET", "/v1/models", self.models)
        routes.add("GET", f"/v1/models/{PARAMETER}", self.model)
        routes.add("GET", "/version", self.version)
        routes.add("GET", "/healthz", self.healthz)
        routes.add("GET", "/readyz", self.readyz)
        routes.add("GET", "/-/healthz", self.serve_healthz)

    async def chat(self, request: Request) -> Response:
        """Answer a conversation."""
        self._slots.check()
        origin = origin_of(request, self._tenants)
        body = await self._bodies.read(ChatRequest, request)
        with contextlib.ExitStack() as held:
            held.enter_context(self._slots.held())
            call = await self._prompts.chat(body, origin)
            finder = self._invokable.finder(body, call)
            verdicts = await self._intrinsics.guard(body, origin)
            if any(verdict.is_refusal for verdict in verdicts):
                return RefusedChat(call, verdicts).response(body.include_usage)
            first, chunks = await self._begin(call, finder)
            answer = ChatAnswer.of(first)
            answer.guards = [guard_result_of(verdict) for verdict in verdicts]
            if body.intrinsics:
                answer.look_with(functools.partial(self._intrinsics.check, body, origin))
            return await self._answered(answer, call, first, chunks, body.include_usage, held)

    async def completions(self, request: Request) -> Response:
        """Continue texts or token ids: each prompt is a call of its own."""
        self._slots.check()
        origin = origin_of(request, self._tenants)
        body = await self._bodies.read(CompletionRequest, request)
        with contextlib.ExitStack() as held:
            calls = []
            for number, part in enumerate(body.split()):
                held.enter_context(self._slots.held())
                calls.append(await self._prompts.completion(part, origin.numbered(number)))
            if len(calls) > 1:
                return await self._answer_all(calls, body.include_usage, held)
            first, chunks = await self._begin(calls[0], None)
            answer = CompletionAnswer.of(first)
            return await self._answered(answer, calls[0], first, chunks, body.include_usage, held)

    async def models(self, request: Request) -> Response:
        """List the base model and the adapters that the caller may use; to an administrator, the public ones."""
        caller = self._tenants.authenticate(request.headers.get("authorization"), None)
        listed = self._adapters.listed(caller.tenant)
        return _json(ModelList.of(self._base_model, listed, self._created).to_json())

    async def model(self, request: Request) -> Response:
        """Say what one name is; also one that is not listed, such as an exact version."""
        caller = self._tenants.authenticate(request.headers.get("authorization"), None)
        [name] = parameters(request)
        if name == self._base_model:
            [base] = ModelList.of(name, (), self._created).data
            return _json(base.to_json())
        version = await resolved(self._adapters, name, tenant=caller.tenant)
        listed = (served for served in self._adapters.listed(caller.tenant) if served.name == name)
        served = next(listed, ServedName(name, f"{version.name}@{version.digest[:SHOWN_DIGITS]}", version))
        return _json(ModelEntry.of(served, self._base_model, self._created).to_json())

    async def version(self, request: Request) -> Response:
        """Say which API this is, as vLLM does."""
        return _json(ServerVersion().to_json())

    async def healthz(self, request: Request) -> Response:
        """Say that this process answers."""
        return PlainTextResponse("ok\n")

    async def serve_healthz(self, request: Request) -> Response:
        """Answer as Serve's own proxy does: KubeRay's probe of a pod waits for this word."""
        return PlainTextResponse("success")

    async def readyz(self, request: Request) -> Response:
        """Say whether a new call would reach a replica."""
        reason = "draining" if self._slots.is_draining else "" if self._replicas() else "no replica"
        return PlainTextResponse(f"{reason or 'ready'}\n", status_code=503 if reason else 200)

    async def _begin(
        self, request: GenerationRequest, finder: InvocationFinder | None
    ) -> tuple[Generation, Generation | SelfInvocation]:
        """Return the call that begins an answer, and the chunks of all calls that the answer is made of."""
        if finder is None:
            generation = await self._dispatcher.generate(request)
            return generation, generation
        turns = await SelfInvocation(self._dispatcher, self._prompts, request, finder).begin()
        return turns.first, turns

    async def _answered(
        self,
        answer: Answer,
        request: GenerationRequest,
        first: Generation,
        chunks: Generation | SelfInvocation,
        include_usage: bool,
        held: contextlib.ExitStack,
    ) -> Response:
        """Return the response to a request.

        Args:
            answer: writes it.
            request: of the client.
            first: the call that began the answer.
            chunks: all of them.
            include_usage: whether a stream ends with the usage.
            held: until the end of a stream.
        """
        headers = serving_headers(first)
        if not request.is_streamed:
            return _json(await answer.whole(chunks), headers)
        return EventStream(answer.stream(chunks, include_usage=include_usage), chunks, headers, held.pop_all())

    async def _answer_all(
        self, requests: Sequence[GenerationRequest], include_usage: bool, held: contextlib.ExitStack
    ) -> Response:
        generations = await begin_all(self._dispatcher, requests)
        answer, chunks = CompletionAnswer.to_all(requests), merged(generations, requests[0].sampling.n)
        headers = serving_headers(generations[0])
        if not requests[0].is_streamed:
            return _json(await answer.whole(chunks), headers)
        return EventStream(answer.stream(chunks, include_usage=include_usage), chunks, headers, held.pop_all())


def _json(text: str, headers: dict[str, str] | None = None) -> Response:
    return Response(text, media_type="application/json", headers=headers)
