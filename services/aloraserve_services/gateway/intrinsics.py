"""``POST /v1/intrinsics``, and the intrinsics of a chat: those that guard it, and those that look at its answer."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import cast

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from aloraserve.serving.intrinsics.outcome import GuardVerdict
from aloraserve.serving.intrinsics.runner import IntrinsicRunner
from aloraserve.serving.request import Origin
from aloraserve.tenants import Tenants
from aloraserve.wire.chat import ChatRequest
from aloraserve.wire.intrinsic_results import IntrinsicResult
from aloraserve.wire.intrinsics import DEFAULT_TIMEOUT_S, IntrinsicsAnswer, IntrinsicsRequest
from aloraserve.wire.messages import ChatMessage
from aloraserve_services.gateway.call_slots import CallSlots
from aloraserve_services.gateway.idempotency import KEY_HEADER, IdempotentAnswers
from aloraserve_services.gateway.intrinsic_results import result_of
from aloraserve_services.gateway.origins import origin_of
from aloraserve_services.gateway.request_body import BodyReader
from aloraserve_services.gateway.routes import Routes


class IntrinsicCalls:
    """Answers requests for several intrinsics over one conversation, for any edge.

    Args:
        runner: runs the intrinsics.
        base_model: its served name.
    """

    def __init__(self, runner: IntrinsicRunner, base_model: str) -> None:
        self._runner = runner
        self._base_model = base_model

    async def answer(self, body: IntrinsicsRequest, origin: Origin) -> IntrinsicsAnswer:
        """Return what each intrinsic finds."""
        outcomes = await self._runner.run(
            body.conversation(self._base_model),
            body.items,
            origin.salted(body.cache_salt),
            timeout_s=body.timeout_s or DEFAULT_TIMEOUT_S,
        )
        results = [result_of(outcome) for outcome in outcomes]
        return IntrinsicsAnswer(id=f"intrinsics-{origin.request_id}", created=int(time.time()), results=results)


class IntrinsicRoutes:
    """Answers requests for several intrinsics over one conversation.

    Args:
        tenants: know who may call.
        calls: answer them.
        bodies: reads requests' bodies.
        slots: of calls in progress; each intrinsic takes one.
        idempotent: answers of requests with keys.
    """

    def __init__(
        self,
        tenants: Tenants,
        calls: IntrinsicCalls,
        bodies: BodyReader,
        slots: CallSlots,
        idempotent: IdempotentAnswers,
    ) -> None:
        self._tenants = tenants
        self._calls = calls
        self._bodies = bodies
        self._slots = slots
        self._idempotent = idempotent

    def add_to(self, routes: Routes) -> None:
        """Add this route to an application's."""
        routes.add("POST", "/v1/intrinsics", self.intrinsics, is_call=True)

    async def intrinsics(self, request: Request) -> Response:
        """Run intrinsics over a conversation."""
        origin = origin_of(request, self._tenants)
        self._slots.check(origin.caller)
        body = await self._bodies.read(IntrinsicsRequest, request, origin.caller)
        return await self._idempotent.once(
            request.headers.get(KEY_HEADER), request.url.path, origin.caller, body, lambda: self._answer(body, origin)
        )

    async def _answer(self, body: IntrinsicsRequest, origin: Origin) -> Response:
        return Response((await self._calls.answer(body, origin)).to_json(), media_type="application/json")


class ChatIntrinsics:
    """The intrinsics that a chat asks for.

    Args:
        runner: runs them.
    """

    def __init__(self, runner: IntrinsicRunner) -> None:
        self._runner = runner

    async def guard(self, body: ChatRequest, origin: Origin) -> list[GuardVerdict]:
        """Return what a chat's guards say of its messages; none without guards.

        Raises:
            AloraserveError: a guard could not say; nothing passes then.
        """
        guards = body.guard_items
        return await self._runner.guard(body, guards, origin, timeout_s=DEFAULT_TIMEOUT_S) if guards else []

    async def check(
        self, body: ChatRequest, origin: Origin, answer: ChatMessage
    ) -> AsyncIterator[tuple[int, IntrinsicResult]]:
        """Yield what a chat's intrinsics find in its answer, with their places in the request, as they do."""
        conversation = msgspec.structs.replace(body, messages=_answered(body, answer))
        items = body.intrinsic_items
        outcomes = self._runner.stream(conversation, items, origin, timeout_s=DEFAULT_TIMEOUT_S)
        async with contextlib.aclosing(cast("AsyncGenerator[object]", outcomes)):
            async for number, outcome in outcomes:
                yield number, result_of(outcome)


def _answered(body: ChatRequest, answer: ChatMessage) -> list[ChatMessage]:
    """Return a chat's messages with its answer, which may go on with the last of them."""
    if not body.continue_final_message:
        return [*body.messages, answer]
    *before, last = body.messages
    return [*before, msgspec.structs.replace(answer, content=last.text + answer.text)]
