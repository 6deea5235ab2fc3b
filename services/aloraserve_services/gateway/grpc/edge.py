"""From a gRPC call to the method that answers it: who may call is known before a message is read, errors are statuses.

gRPC itself would send a client the text of what a method raises, and of what a message's parser does. So methods get
messages as bytes, and nothing they raise passes this room.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import grpc
import structlog

from aloraserve.errors import AloraserveError, BodyTimeoutError, DrainingError, InvalidRequestError
from aloraserve.telemetry.tracing import Tracing
from aloraserve.tenants import UNTENANTED, Caller, Tenants
from aloraserve.wire import reply_for
from aloraserve_services.gateway.body_budget import BodyBudget
from aloraserve_services.gateway.call_slots import CallSlots
from aloraserve_services.gateway.grpc.call import GrpcCall
from aloraserve_services.gateway.grpc.method import GrpcMethod
from aloraserve_services.gateway.metrics import GatewayMetrics
from aloraserve_services.gateway.origins import may_call
from aloraserve_services.gateway.request_context import begin_request
from aloraserve_services.gateway.tenant_turns import TenantTurns
from aloraserve_services.grpc_server.status import DETAILS_KEY, status_of

CANCELLED = 499
"""What stands in the metrics for a call that its client gave up."""
MESSAGES_AT_ONCE, MESSAGES_WAITING = 32, 4096
"""Of a tenant: messages that are received at a time, each with room for the longest, and calls that wait for that."""
LIMITS_PREFIX = "x-ratelimit-"
log = structlog.get_logger(__name__)


class GrpcEdge(grpc.GenericRpcHandler):
    """See the module's docstring. For one event loop.

    Args:
        methods: by full name, such as ``/aloraserve.v1.Inference/Chat``; clients make no other labels.
        tenants: know who may call.
        slots: of calls in progress.
        metrics: of the gateway.
        tracing: of this process.
        budget: of memory for messages.
        message_timeout_s: for a call's message to arrive.
        stall_timeout_s: that a client may leave what it was sent unread.
    """

    def __init__(
        self,
        methods: Mapping[str, GrpcMethod],
        tenants: Tenants,
        slots: CallSlots,
        metrics: GatewayMetrics,
        tracing: Tracing,
        budget: BodyBudget,
        *,
        message_timeout_s: float,
        stall_timeout_s: float,
    ) -> None:
        self._methods = methods
        self._tenants = tenants
        self._slots = slots
        self._metrics = metrics
        self._tracing = tracing
        self._budget = budget
        self._turns = TenantTurns("messages", at_once=MESSAGES_AT_ONCE, waiting=MESSAGES_WAITING)
        self._message_timeout_s = message_timeout_s
        self._stall_timeout_s = stall_timeout_s
        self._calls: set[GrpcCall] = set()
        self._is_stopped = False

    def service(self, details: Any) -> Any:
        """Return what answers a call, None for a method that is not ours. Its message has not been read yet."""
        method = self._methods.get(details.method)
        if method is None:
            return None
        metadata = {name: value for name, value in details.invocation_metadata or () if isinstance(value, str)}
        serve = functools.partial(self._serve, details.method, method, metadata)
        # A client's one message is read as the first of several: its handler then reads it, or refuses the call before.
        if method.answer is not None:
            return grpc.stream_unary_rpc_method_handler(serve)
        return grpc.stream_stream_rpc_method_handler(serve)

    def expire(self) -> None:
        """End the calls whose clients do not read."""
        now = asyncio.get_running_loop().time()
        for call in self._calls:
            if call.unread_since is not None and now - call.unread_since > self._stall_timeout_s and call.task:
                call.task.cancel()

    def cut_off(self) -> None:
        """End all calls that are left, and say so to their clients."""
        self._is_stopped = True
        for call in self._calls:
            if call.task is not None:
                call.task.cancel()

    async def _serve(
        self, name: str, method: GrpcMethod, metadata: Mapping[str, str], messages: AsyncIterator[bytes], context: Any
    ) -> bytes | None:
        """Answer a call; its message has not been read yet."""
        if not method.is_call:
            return await self._answer(name, method, metadata, messages, context)
        self._metrics.in_progress.inc()
        try:
            with self._span(name, metadata):
                return await self._answer(name, method, metadata, messages, context)
        finally:
            self._metrics.in_progress.dec()

    def _span(self, name: str, metadata: Mapping[str, str]) -> AbstractContextManager[None]:
        if self._tracing.is_on and not may_call(self._tenants, metadata.get("authorization")):
            return contextlib.nullcontext()
        return self._tracing.request(name, metadata)

    async def _answer(
        self, name: str, method: GrpcMethod, metadata: Mapping[str, str], messages: AsyncIterator[bytes], context: Any
    ) -> bytes | None:
        request = begin_request({}, metadata, self._tracing)
        if method.is_call:
            self._tracing.annotate({"aloraserve.request_id": request.request_id, "rpc.system": "grpc"})
        call = GrpcCall(context, metadata, request)
        self._calls.add(call)
        try:
            call.caller = self._admitted(method, metadata)
            answer = await self._answered(method, messages, call)
            await call.flush()
        except asyncio.CancelledError:
            await self._cancelled(name, call, context)
            raise
        except Exception as error:  # noqa: BLE001 - gRPC would send its text
            with contextlib.suppress(Exception):
                # What was said before it.
                await call.flush()
            await self._fail(name, call, context, error)
        finally:
            call.close()
            self._calls.discard(call)
        self._count(name, 200)
        context.set_trailing_metadata(call.trailers)
        return answer

    async def _answered(self, method: GrpcMethod, messages: AsyncIterator[bytes], call: GrpcCall) -> bytes | None:
        """Return the answer of a call that has one; the others are written."""
        if method.talk is not None:
            await method.talk(messages, call)
            return None
        with self._budget.holding(call.caller) as call.held:
            message = await self._received(method, messages, call)
            if method.answer is not None:
                return (await method.answer(message, call)).SerializeToString()
            if method.stream is not None:
                await method.stream(message, call)
        return None

    async def _received(self, method: GrpcMethod, messages: AsyncIterator[bytes], call: GrpcCall) -> bytes:
        """Return a call's message. How long it is shows when it is there: until then it may be as long as any."""
        if method.is_open:
            # Of nobody that could have a share.
            message = await self._first(messages)
            call.held.add(len(message))
            return message
        async with self._turns.turn(call.caller.tenant):
            call.held.add(self._budget.max_bytes)
            message = await self._first(messages)
        call.held.shrink(len(message))
        return message

    async def _first(self, messages: AsyncIterator[bytes]) -> bytes:
        try:
            async with asyncio.timeout(self._message_timeout_s):
                return await anext(messages)
        except TimeoutError:
            raise BodyTimeoutError(f"the message did not arrive within {self._message_timeout_s:g} s") from None
        except StopAsyncIteration:
            raise InvalidRequestError("the call has no message") from None

    def _admitted(self, method: GrpcMethod, metadata: Mapping[str, str]) -> Caller:
        if method.is_open:
            return UNTENANTED
        caller = self._tenants.authenticate(metadata.get("authorization"), method.role)
        if method.is_call:
            self._slots.check(caller)
        return caller

    async def _cancelled(self, name: str, call: GrpcCall, context: Any) -> None:
        """Count a call that its client has given up, or say to its client that the gateway ends it."""
        call.close()
        if self._is_stopped:
            error = DrainingError("the gateway has stopped; the answer is incomplete")
            await self._fail(name, call, context, error)
        self._count(name, CANCELLED)

    async def _fail(self, name: str, call: GrpcCall, context: Any, error: Exception) -> None:
        """End a call with an error's status; raises what gRPC has for that."""
        reply = reply_for(error)
        if reply.status >= 500 or not isinstance(error, AloraserveError):
            log.error("request_failed", endpoint=name, cause=type(error).__name__, exc_info=error)
        self._count(name, reply.status)
        call.limits = {key: value for key, value in reply.headers.items() if key.startswith(LIMITS_PREFIX)}
        status = status_of(reply)
        await context.abort(status.code, status.message, (*call.trailers, (DETAILS_KEY, status.details)))

    def _count(self, name: str, status: int) -> None:
        self._metrics.requests.labels(name, str(status)).inc()
        self._tracing.answered(status)
