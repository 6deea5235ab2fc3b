"""From a prompt to a replica's first reply, surviving the death of replicas that have said nothing yet."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import structlog

from aloraserve.errors import InvalidRequestError, ReplicaLostError
from aloraserve.routing.base import Call, Decision
from aloraserve.routing.receipts import Answered, AttemptRecord, Outcome, Receipt, ReceiptRing
from aloraserve.routing.router import Router
from aloraserve.savings.base import CallSavings
from aloraserve.serving.engine_messages import EngineCall, EngineChunk, EngineRefusal, EngineReply
from aloraserve.tenants import Caller
from aloraserve_services.gateway.exchange import Exchange, LostError
from aloraserve_services.gateway.metrics import METRICS
from aloraserve_services.gateway.prompts import Prompt
from aloraserve_services.gateway.request_context import current_request

MAX_ATTEMPTS = 3

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Tries:
    """What a call may still try, over all of its answers that were lost.

    Args:
        left: attempts.
        lost: ids of the replicas that were lost under it.
        made: what became of the attempts.
    """

    left: int = MAX_ATTEMPTS
    lost: set[str] = field(default_factory=set)
    made: list[AttemptRecord] = field(default_factory=list)

    def lose(self, replica: str) -> None:
        """Note that the replica was lost after it had begun to answer."""
        self.lost.add(replica)
        self.made[-1] = replace(self.made[-1], outcome=Outcome.CUT_SHORT)


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
        savings: what reuse across adapters did to it, None if that is not known.
        prefill_s: of ``ttft_s``, the engine's own prefill; 0 if the engine does not say.
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
    savings: CallSavings | None = None
    prefill_s: float = 0.0


class Sender:
    """Decides, claims, reserves and dispatches, and leaves a receipt of it.

    Args:
        router: the platform's router.
        handle: Serve's handle of the engine deployment's ``generate``, streaming.
        receipts: where receipts go.
    """

    def __init__(self, router: Router, handle: Any, receipts: ReceiptRing) -> None:
        self._router = router
        self._handle = handle
        self._receipts = receipts

    async def send(
        self, prompt: Prompt, call: Call, request_id: str, caller: Caller, tries: Tries | None = None
    ) -> Sent:
        """Return once the first chunk is there.

        Args:
            prompt: what to send.
            call: what the router knows of it.
            request_id: of the call.
            caller: whose call it is.
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
            exchange = await self._exchange(prompt, call, request_id, caller, tries)
            replies = exchange.replies()
            try:
                first = await anext(replies)
            except StopAsyncIteration:
                exchange.outcome = Outcome.FAILED
                raise ReplicaLostError("the replica ended the call without an answer") from None
            except LostError as error:
                tries.lost |= {error.replica} - {""}
                log.warning("replica_lost", request_id=request_id, tries_left=tries.left, cause=error.cause)
                continue
            finally:
                ttft_s = time.perf_counter() - started
                receipt = self._note(request_id, call, exchange, tries, ttft_s)
            if isinstance(first, EngineRefusal):
                await replies.aclose()
                raise InvalidRequestError(first.message, param=first.param)
            chunks = _Chunks(first, replies, partial(self._cut_short, receipt))
            return _sent(request_id, exchange, chunks, first, ttft_s)
        raise ReplicaLostError(f"{MAX_ATTEMPTS} replicas were lost before the first token; try again")

    async def _exchange(self, prompt: Prompt, call: Call, request_id: str, caller: Caller, tries: Tries) -> Exchange:
        engine_call = EngineCall(
            f"{request_id}-{uuid.uuid4().hex[:8]}",
            prompt.token_ids,
            prompt.sampling,
            adapter=prompt.adapter.name if prompt.adapter else None,
            cache_salt=caller.cache_salt,
            keys=call.keys,
            traceparent=current_request().traceparent,
        )
        placement = await self._router.place(call, engine_call.request_id, avoid=tries.lost)
        METRICS.observe(placement)
        rank = [one for one in placement.decision.rank if one not in tries.lost]
        return Exchange(self._router, self._handle, call, placement, engine_call, rank)

    def _note(self, request_id: str, call: Call, exchange: Exchange, tries: Tries, ttft_s: float) -> Receipt:
        placement, replica = exchange.placement, exchange.replica
        METRICS.attempts.labels(exchange.outcome).inc()
        tries.made.append(AttemptRecord(replica, placement.label(replica), placement.claim, exchange.outcome))
        answered = Answered(exchange.cached_tokens, ttft_s) if exchange.outcome is Outcome.ANSWERED else None
        receipt = Receipt.of(request_id, call, placement, tuple(tries.made), answered, at_s=time.time())
        self._receipts.add(receipt)
        return receipt

    def _cut_short(self, receipt: Receipt) -> None:
        self._receipts.replace(receipt, receipt.cut_short())


def _sent(request_id: str, exchange: Exchange, chunks: _Chunks, first: EngineChunk, ttft_s: float) -> Sent:
    placement, replica = exchange.placement, exchange.replica
    decision = placement.decision
    estimate = next((one for one in decision.estimates if one.replica == replica), None)
    return Sent(
        request_id=request_id,
        replica=replica,
        label=placement.label(replica),
        decision=decision,
        overlap_tokens=estimate.overlap_tokens if estimate else 0,
        reason=_reason(decision, replica),
        replies=chunks,
        cached_tokens=first.cached_tokens,
        ttft_s=ttft_s,
        savings=first.savings,
        prefill_s=first.prefill_s,
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

    def __init__(self, first: EngineChunk, rest: AsyncGenerator[EngineReply], on_loss: Callable[[], None]) -> None:
        self._first: EngineChunk | None = first
        self._rest = rest
        self._on_loss = on_loss

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> EngineChunk:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        try:
            reply = await anext(self._rest)
        except LostError as error:
            self._on_loss()
            raise ReplicaLostError("the replica was lost while it answered; the answer is incomplete") from error
        if isinstance(reply, EngineRefusal):
            raise InvalidRequestError(reply.message, param=reply.param)
        return reply

    async def aclose(self) -> None:
        await self._rest.aclose()
