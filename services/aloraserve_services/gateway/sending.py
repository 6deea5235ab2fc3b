"""From a prompt to a replica's first reply, surviving the death of replicas that have said nothing yet."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import structlog

from aloraserve.errors import InvalidRequestError, OverloadedError, ReplicaLostError
from aloraserve.routing.base import Call, Decision
from aloraserve.routing.router import Router
from aloraserve_services.engine.calls import EngineCall, EngineChunk, EngineRefusal, EngineReply
from aloraserve_services.gateway.prompts import Prompt

MAX_ATTEMPTS = 3
CHOOSE_TIMEOUT_S = 600.0
NO_REPLICA_TIMEOUT_S = 5.0
CUT_SHORT = ("abort", "error")
"""How vLLM ends an answer that is not whole."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Tries:
    """What a call may still try, over all of its answers that were lost.

    Args:
        left: attempts.
        lost: ids of the replicas that were lost under it.
    """

    left: int = MAX_ATTEMPTS
    lost: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Sent:
    """A call that a replica has begun to answer.

    Args:
        request_id: of the call.
        replica: id of the replica that answers.
        label: its short name.
        decision: why it was chosen.
        overlap_tokens: prompt tokens that the decision expected to be cached there.
        reason: why this replica, in words.
        replies: all chunks, the first included; closing it aborts the call.
        cached_tokens: the engine's true figure.
        ttft_s: from the call to its first chunk.
    """

    request_id: str
    replica: str
    label: str
    decision: Decision
    overlap_tokens: int
    reason: str
    replies: AsyncIterator[EngineChunk]
    cached_tokens: int
    ttft_s: float


class Sender:
    """Decides, reserves, claims and dispatches.

    Args:
        router: the platform's router.
        handle: Serve's handle of the engine deployment's ``generate``, streaming.
    """

    def __init__(self, router: Router, handle: Any) -> None:
        self._router = router
        self._handle = handle

    async def send(
        self, prompt: Prompt, call: Call, request_id: str, cache_salt: str | None, tries: Tries | None = None
    ) -> Sent:
        """Return once the first chunk is there.

        Args:
            prompt: what to send.
            call: what the router knows of it.
            request_id: of the call.
            cache_salt: the tenant's.
            tries: what is left of the call's attempts; used up here.

        Raises:
            InvalidRequestError: the engine refused the call.
            OverloadedError: the waiting room is full.
            ReplicaLostError: replicas died under the call ``MAX_ATTEMPTS`` times.
        """
        started = time.perf_counter()
        tries = tries or Tries()
        while tries.left:
            tries.left -= 1
            decision = await self._router.decide(call)
            engine_call = EngineCall(
                f"{request_id}-{uuid.uuid4().hex[:8]}",
                prompt.token_ids,
                prompt.sampling,
                adapter=prompt.adapter.name if prompt.adapter else None,
                cache_salt=cache_salt,
                keys=call.keys,
            )
            exchange = _Exchange(self._router, self._handle, call, decision, engine_call)
            replies = exchange.replies([one for one in decision.rank if one not in tries.lost])
            try:
                first = await anext(replies)
            except StopAsyncIteration:
                raise ReplicaLostError("the replica ended the call without an answer") from None
            except _LostError as error:
                tries.lost |= {error.replica} - {""}
                log.warning("replica_lost", request_id=request_id, tries_left=tries.left, cause=error.cause)
                continue
            if isinstance(first, EngineRefusal):
                await replies.aclose()
                raise InvalidRequestError(first.message, param=first.param)
            return _sent(request_id, decision, exchange.replica, first, replies, time.perf_counter() - started)
        raise ReplicaLostError(f"{MAX_ATTEMPTS} replicas were lost before the first token; try again")


def _sent(
    request_id: str,
    decision: Decision,
    replica: str,
    first: EngineChunk,
    replies: AsyncGenerator[EngineReply],
    ttft_s: float,
) -> Sent:
    estimate = next((one for one in decision.estimates if one.replica == replica), None)
    return Sent(
        request_id=request_id,
        replica=replica,
        label=estimate.label if estimate else replica,
        decision=decision,
        overlap_tokens=estimate.overlap_tokens if estimate else 0,
        reason=_reason(decision, replica),
        replies=_Chunks(first, replies),
        cached_tokens=first.cached_tokens,
        ttft_s=ttft_s,
    )


def _reason(decision: Decision, replica: str) -> str:
    """Return the decision's reason, or why another replica than the first in rank answered."""
    if not decision.estimates or decision.estimates[0].replica == replica:
        return decision.reason
    return f"next in rank: {decision.estimates[0].label} was full or lost ({decision.reason})"


class _Chunks:
    """The first chunk and the others; closing aborts the call, also before anything was read.

    (A generator that was never started runs none of its clean-up when it is closed.)
    """

    def __init__(self, first: EngineChunk, rest: AsyncGenerator[EngineReply]) -> None:
        self._first: EngineChunk | None = first
        self._rest = rest

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> EngineChunk:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        try:
            reply = await anext(self._rest)
        except _LostError as error:
            raise ReplicaLostError("the replica was lost while it answered; the answer is incomplete") from error
        if isinstance(reply, EngineRefusal):
            raise InvalidRequestError(reply.message, param=reply.param)
        return reply

    async def aclose(self) -> None:
        await self._rest.aclose()


class _LostError(Exception):
    """Raised when the replica could not be reached or died."""

    def __init__(self, replica: str, cause: str) -> None:
        super().__init__(f"replica {replica} lost: {cause}")
        self.replica = replica
        self.cause = cause


class _Exchange:
    """One attempt at one replica."""

    def __init__(self, router: Router, handle: Any, call: Call, decision: Decision, engine_call: EngineCall) -> None:
        self.replica = ""
        self._router = router
        self._handle = handle
        self._call = call
        self._decision = decision
        self._engine_call = engine_call

    async def replies(self, rank: list[str]) -> AsyncGenerator[EngineReply]:
        """Yield the replies of the first replica in ``rank`` that takes the call."""
        answered = False
        claim_id = self._engine_call.request_id
        response: Any = None
        claiming: asyncio.Task[bool] | None = None
        try:
            async with asyncio.timeout(self._patience_s(rank)) as waiting, self._reserved(rank) as selection:
                waiting.reschedule(None)
                self.replica = selection.replica_id
                # Claimed for the replica that Serve really gave: the first in rank may have been full. The claim
                # goes out before the call does, and nobody waits for it.
                claiming = asyncio.create_task(self._router.claim(self._call, self._decision, self.replica, claim_id))
                response = self._handle.dispatch(selection, self._engine_call)
                async for reply in response:
                    if isinstance(reply, EngineChunk):
                        if reply.finish_reason in CUT_SHORT:
                            raise _LostError(self.replica, f"the engine ended with {reply.finish_reason!r}")
                        answered = True
                    yield reply
                response = None
        except _serve_errors().overloaded as error:
            raise OverloadedError("the waiting room is full; try again") from error
        except _serve_errors().lost as error:
            if not _is_loss(error):
                raise
            raise _LostError(self.replica, type(error).__name__) from error
        except TimeoutError:
            if claiming is not None:
                raise
            raise OverloadedError(f"no replica took the call within {self._patience_s(rank):g} s") from None
        finally:
            # Serve cancels only what carries its own request id, and calls here have one each.
            if response is not None:
                response.cancel()
            if claiming is not None:
                await claiming
                if not answered:
                    await self._router.withdraw(self._call, self.replica, claim_id)

    @staticmethod
    def _patience_s(rank: list[str]) -> float:
        """Return how long to wait for a slot; without any replica that is known, only for one that is just starting."""
        return CHOOSE_TIMEOUT_S if rank else NO_REPLICA_TIMEOUT_S

    def _reserved(self, rank: list[str]) -> Any:
        own_request_id()
        return self._handle.choose_replica(rank=rank)


def own_request_id() -> None:
    """Give the current task's next handle call an internal request id of its own.

    Serve indexes waiting calls by that id: parallel calls of one HTTP request would share it, and all but the first
    would wait for ever.
    """
    from dataclasses import replace

    from ray.serve import context

    current = context._get_serve_request_context()
    context._serve_request_context.set(replace(current, _internal_request_id=uuid.uuid4().hex))


def _is_loss(error: BaseException) -> bool:
    """Whether the replica or its engine died, rather than failed at this call for a reason that another would too."""
    from ray.exceptions import RayTaskError

    if not isinstance(error, RayTaskError):
        return True
    return type(error.cause).__name__ in ("EngineDeadError", "EngineGenerateError")


@dataclass(frozen=True, slots=True)
class _ServeErrors:
    overloaded: tuple[type[BaseException], ...]
    lost: tuple[type[BaseException], ...]


def _serve_errors() -> _ServeErrors:
    from ray.exceptions import RayError
    from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError

    return _ServeErrors((BackPressureError,), (RayError, DeploymentUnavailableError, ReplicaUnavailableError))
