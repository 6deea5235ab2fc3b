"""One attempt to have a call answered by one replica: reserved, dispatched, its claim kept true."""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

import structlog

from aloraserve.directory.base import CLAIM_TTL_S
from aloraserve.errors import DeadlineError, OverloadedError, ReplicaLostError
from aloraserve.routing.placement import Placement
from aloraserve.routing.receipts import AttemptRecord, Outcome
from aloraserve.routing.router import CallRouter
from aloraserve.serving.admission import NOTHING_USED, CallUsage
from aloraserve.serving.engine_messages import EngineCall, EngineChunk, EngineRefusal, EngineUnavailable
from aloraserve.serving.observers import CallObserver
from aloraserve.serving.replica_pool import ReplicaPool, Replies, Reservation
from aloraserve.serving.request import GenerationRequest
from aloraserve.serving.time_limits import NO_REPLICA_S, AnswerTimer, deadline_error

RESERVE_TIMEOUT_S = 600.0
UNUSED = (Outcome.REFUSED, Outcome.LOST, Outcome.ENGINE_ENDED, Outcome.UNAVAILABLE, Outcome.OVERLOADED)
"""Ends of an attempt that used nothing of its engine, or nothing that its client is to pay."""
CUT_SHORT = ("abort", "error")
"""How an engine ends an answer that is not whole."""

Answer = EngineChunk | EngineRefusal
"""What a replica that serves the call replies."""

log = structlog.get_logger(__name__)


class LostError(ReplicaLostError):
    """Raised when the replica could not be reached, died, or does not have the adapter's version.

    It reaches a client that has seen a part of the answer.

    Args:
        replica: its id, empty if none took the call.
        cause: for the log.
        event: for the client.
    """

    def __init__(self, replica: str, cause: str, event: str = "the replica was lost while it answered") -> None:
        super().__init__(f"{event}; the answer is incomplete")
        self.replica = replica
        self.cause = cause


class Attempt:
    """One attempt at one replica. It is begun once, read from, and closed in any case.

    Args:
        router: keeps the claim.
        pool: of the replicas.
        observer: learns of a claim that moves.
        request: to have answered.
        placement: where it is to go.
        engine_call: what is sent; the claim has the same id.
        rank: ids of the replicas to try, best first.
        earlier: what became of the call's attempts before this one.
        hold_s: how long the call waits for a first replica while there is none.

    Attributes:
        request: likewise.
        placement: the decision, with what became of its claim.
        replica: id of who took the call, empty before.
        outcome: what became of it, so far.
        engine_ended: whether the replica's engine ended under it.
    """

    def __init__(
        self,
        router: CallRouter,
        pool: ReplicaPool,
        observer: CallObserver,
        request: GenerationRequest,
        placement: Placement,
        engine_call: EngineCall,
        rank: list[str],
        earlier: tuple[AttemptRecord, ...] = (),
        *,
        hold_s: float = NO_REPLICA_S,
    ) -> None:
        self.request = request
        self.placement = placement
        self.replica = ""
        self.outcome = Outcome.FAILED
        self.engine_ended = False
        self._router = router
        self._pool = pool
        self._observer = observer
        self._engine_call = engine_call
        self._rank = rank
        self._earlier = earlier
        self._hold_s = hold_s
        self._placed_at = time.perf_counter()
        self._held: AbstractAsyncContextManager[Reservation] | None = None
        self._reservation: Reservation | None = None
        self._replies: Replies | None = None
        self._moving: asyncio.Task[None] | None = None
        self._timer: AnswerTimer | None = None
        self._is_answered = False

    @property
    def records(self) -> tuple[AttemptRecord, ...]:
        """Outcomes of the call's attempts, this one included."""
        label = self.placement.label(self.replica)
        return (*self._earlier, AttemptRecord(self.replica, label, self.placement.claim, self.outcome))

    @property
    def is_ready(self) -> bool:
        """Whether the next reply can be had without waiting, as far as the pool knows."""
        return getattr(self._replies, "is_ready", False)

    @property
    def overlap_tokens(self) -> int:
        """Prompt tokens that the decision expected to be cached at the replica that took the call."""
        estimates = self.placement.decision.estimates
        return next((candidate.overlap_tokens for candidate in estimates if candidate.replica == self.replica), 0)

    @property
    def usage(self) -> CallUsage:
        """What the call has used before its first token: the prompt, once an engine has it."""
        if self._reservation is None or self.outcome in UNUSED:
            return NOTHING_USED
        prompt_tokens = self.request.prompt_tokens
        return CallUsage(prompt_tokens, min(self.overlap_tokens, prompt_tokens), 0)

    async def begin(self) -> Answer:
        """Send the call to the first replica in rank that takes it; return its first reply.

        Raises:
            LostError: the replica died, could not be reached, or does not have the adapter's version.
            OverloadedError: no replica took the call.
            StopAsyncIteration: the replica ended the call without a reply.
        """
        try:
            await self._reserve()
        except asyncio.CancelledError:
            self.outcome = Outcome.CANCELLED
            raise
        reply = await self.next_reply()
        self._is_answered = isinstance(reply, EngineChunk)
        if self._is_answered:
            self._router.answered(self._engine_call.request_id)
        self.outcome = Outcome.ANSWERED if self._is_answered else Outcome.REFUSED
        return reply

    def limit(self, deadline: float, chunk_s: float) -> None:
        """Have the rest of the answer end in time.

        Args:
            deadline: on ``time.perf_counter``'s clock, or infinity.
            chunk_s: how long the replica may be silent while somebody reads.
        """
        if min(deadline, chunk_s) < math.inf:
            self._timer = AnswerTimer(deadline, chunk_s, lambda is_late: self._time_is_over(deadline, chunk_s, is_late))

    async def next_reply(self) -> Answer:
        """Return the next reply.

        Raises:
            LostError: the replica was lost; the answer is not whole.
            DeadlineError: the answer's time is over.
            StopAsyncIteration: there is none.
        """
        assert self._replies is not None, "the call was not sent"
        timer = self._timer
        try:
            if timer is None:
                reply = await self._replies.__anext__()
            else:
                timer.wait()
                reply = await self._replies.__anext__()
                timer.arrived()
        except StopAsyncIteration:
            self._replies = None
            raise
        except asyncio.CancelledError as error:
            meaning = error if timer is None else timer.meaning(error)
            if meaning is not error:
                raise meaning from None
            self.outcome = Outcome.CANCELLED
            raise
        except (LostError, DeadlineError):
            raise
        except Exception as error:
            self._note_replica()
            self._raise_meaning(error)
            raise
        if not self._is_answered:
            self._note_replica()
        if isinstance(reply, EngineUnavailable):
            self.outcome = Outcome.UNAVAILABLE
            raise LostError(self.replica, reply.message)
        if isinstance(reply, EngineChunk) and reply.finish_reason in CUT_SHORT:
            raise self._lost(f"the engine ended with {reply.finish_reason!r}")
        return reply

    async def close(self) -> None:
        """End the attempt: cancel what the replica still does, and withdraw the claim of a call without an answer."""
        held, self._held = self._held, None
        if self._timer is not None:
            self._timer.stop()
        self._router.ended(self._engine_call.request_id)
        try:
            if held is not None:
                await held.__aexit__(None, None, None)
        finally:
            # Serve cancels only what carries its own request id, and calls here have one each.
            if self._replies is not None:
                self._replies.cancel()
            if self._moving is not None:
                await self._moved(self._moving)
            if not self._is_answered:
                # Of a call that is answered the replica's own state shows what the claim did.
                await self._router.withdraw(self.request.call, self.placement, self._engine_call.request_id)

    async def _reserve(self) -> None:
        """Hold a place on a replica and send it the call."""
        patience_s = RESERVE_TIMEOUT_S if self._rank else self._hold_s
        held = self._pool.reserve(self._rank, self._engine_call.share)
        try:
            async with asyncio.timeout(patience_s):
                reservation = await held.__aenter__()
        except TimeoutError:
            self.outcome = Outcome.OVERLOADED
            raise OverloadedError(f"no replica took the call within {patience_s:g} s; retry later") from None
        except Exception as error:
            self._raise_meaning(error)
            raise
        self._held, self._reservation = held, reservation
        self.replica = reservation.replica
        self._follow()
        elsewhere = self.placement.held_elsewhere(self.replica) * self.request.call.block_tokens
        # Most calls go on with what one replica has.
        call = replace(self._engine_call, elsewhere_tokens=elsewhere) if elsewhere else self._engine_call
        self._replies = reservation.send(call)

    def _note_replica(self) -> None:
        """Note who answers: a replica that other gateways had filled meanwhile passes the call on."""
        assert self._reservation is not None, "no place is held"
        if self._reservation.replica != self.replica:
            self.replica = self._reservation.replica
            self._follow()

    def _raise_meaning(self, error: Exception) -> None:
        """Raise what the loop or the client is to meet in place of an error of the pool's, if not that error itself."""
        self.outcome = self._pool.outcome_of(error)
        self.engine_ended = self.outcome is Outcome.ENGINE_ENDED
        if self.engine_ended or self.outcome is Outcome.LOST:
            raise self._lost(type(error).__name__) from error
        if self.outcome is Outcome.OVERLOADED:
            wait_s = getattr(error, "retry_after_s", None)
            raise OverloadedError("too many requests are queued; retry later", retry_after_s=wait_s) from error

    def _time_is_over(self, deadline: float, chunk_s: float, is_late: bool) -> Exception:
        """End the call in the replica now, whoever reads it; return the reader's error."""
        if self._replies is not None:
            self._replies.cancel()
        if is_late:
            self.outcome = Outcome.CANCELLED
            return deadline_error(self.request.origin, deadline)
        self.outcome = Outcome.CUT_SHORT
        return LostError(self.replica, "silent", f"the replica sent nothing for {chunk_s:g} s amid the answer")

    def _lost(self, cause: str) -> LostError:
        before = Outcome.ENGINE_ENDED if self.engine_ended else Outcome.LOST
        self.outcome = Outcome.CUT_SHORT if self._is_answered else before
        return LostError(self.replica, cause)

    def _follow(self) -> None:
        """Claim for the replica that took the call, if that is another one or the claim has expired meanwhile.

        The first in rank may have been full. The claim goes out before the call does, and nobody waits for it.
        """
        if self.replica != self.placement.replica or time.perf_counter() - self._placed_at >= CLAIM_TTL_S:
            self._moving = asyncio.create_task(self._move(self._moving))

    async def _move(self, earlier: asyncio.Task[None] | None) -> None:
        if earlier is not None:
            await self._moved(earlier)
        call, claim_id = self.request.call, self._engine_call.request_id
        self.placement = await self._router.move(call, self.placement, self.replica, claim_id)
        self._observer.claim_moved(self.request, self.placement)

    @staticmethod
    async def _moved(moving: asyncio.Task[None]) -> None:
        """Wait for a claim that moves; what fails there is not a fault of the call."""
        await asyncio.wait({moving})
        if not moving.cancelled() and (error := moving.exception()) is not None:
            log.error("claim_move_failed", cause=type(error).__name__, exc_info=error)
