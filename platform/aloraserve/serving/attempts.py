"""The one loop that has a call answered: place, reserve, dispatch, first chunk; and again where a replica is lost."""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager

import structlog

from aloraserve.errors import ReplicaLostError
from aloraserve.routing.receipts import AttemptRecord, Outcome
from aloraserve.routing.router import CallRouter
from aloraserve.serving.admission import NOTHING_USED, OPEN, Admission, CallUsage, Ticket
from aloraserve.serving.attempt import Attempt, LostError
from aloraserve.serving.engine_messages import EngineRefusal
from aloraserve.serving.generation import Generation
from aloraserve.serving.observers import CallObserver, CallObservers
from aloraserve.serving.replica_pool import ReplicaPool
from aloraserve.serving.request import GenerationRequest, Origin
from aloraserve.serving.suspects import Suspects
from aloraserve.serving.time_limits import TimeLimits, deadline_error

MAX_ATTEMPTS = 3

log = structlog.get_logger(__name__)


class AttemptBudget:
    """Attempts that a call has left, and the outcomes of those that it made.

    Attributes:
        left: attempts.
        lost: ids of the replicas that were lost under the call.
        generation: what the last attempt has begun, None if it has not or was lost.
    """

    def __init__(self) -> None:
        self.left = MAX_ATTEMPTS
        self.lost: set[str] = set()
        self.generation: Generation | None = None
        self._last: Attempt | None = None
        self._cause = ""

    @property
    def records(self) -> tuple[AttemptRecord, ...]:
        """Outcomes of the attempts so far."""
        return () if self._last is None else self._last.records

    @property
    def usage(self) -> CallUsage:
        """What the call used of the last engine that had it."""
        if self.generation is not None:
            return self.generation.usage
        return NOTHING_USED if self._last is None else self._last.usage

    def spend(self, attempt: Attempt) -> None:
        """Count an attempt."""
        self.left -= 1
        self._last = attempt

    def lose(self, error: LostError) -> None:
        """Avoid the replica that was lost from now on."""
        self.lost |= {error.replica} - {""}
        self.generation = None
        self._cause = error.cause

    def exhausted(self, request: GenerationRequest) -> ReplicaLostError:
        """Return the client's error when no attempt is left."""
        if self.records[-1].outcome is Outcome.UNAVAILABLE:
            return ReplicaLostError(f"model {request.model[:80]!r} cannot be served now: {self._cause}; retry later")
        until = "the first token" if request.is_streamed else "the answer was complete"
        return ReplicaLostError(f"{MAX_ATTEMPTS} replicas were lost before {until}; retry later")


class Dispatcher:
    """Has calls answered by the replicas of a fleet, for any edge. For one event loop.

    Args:
        router: decides and claims.
        pool: of the replicas.
        observers: learn what becomes of each call.
        limits: how long calls may take.
        admission: lets calls in.
        suspects: requests under which engines ended.
    """

    def __init__(
        self,
        router: CallRouter,
        pool: ReplicaPool,
        observers: Sequence[CallObserver] = (),
        limits: TimeLimits | None = None,
        admission: Admission = OPEN,
        suspects: Suspects | None = None,
    ) -> None:
        self._router = router
        self._pool = pool
        self._limits = limits or TimeLimits()
        self._admission = admission
        self._suspects = suspects or Suspects()
        self._observer = CallObservers([*observers, self._suspects])

    async def generate(self, request: GenerationRequest) -> Generation:
        """Return once the answer will not be replaced: at its first chunk, or whole if it is not streamed.

        A replica that is lost before that costs an attempt: the client has seen nothing, so another may answer.

        Raises:
            RateLimitedError: the caller's tenant is over a limit of its own.
            InvalidRequestError: the engine refused the call, or it is larger than its tenant's limits.
            AdapterNotLoadedError: the engine cannot load its adapter.
            OverloadedError: too many calls are queued, or no replica took the call in time.
            ReplicaLostError: ``MAX_ATTEMPTS`` replicas were lost under the call or do not have the adapter's version,
                or one ended it without an answer.
            DeadlineError: the call's time was over before.
            EngineEndingRequestError: engines ended under the same request, and more of them would.
        """
        [ticket] = await self._admission.admit([request])
        return await self._admitted(request, ticket)

    async def generate_all(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """Return the answers to several calls of one request, let in together, once none of them will be replaced.

        Raises:
            AloraserveError: see :meth:`generate`; one of them did not begin, and the others are ended.
        """
        tickets = await self._admission.admit(requests)
        calls = zip(requests, tickets, strict=True)
        tasks = [asyncio.ensure_future(self._admitted(request, ticket)) for request, ticket in calls]
        try:
            return list(await asyncio.gather(*tasks))
        except BaseException as error:
            for task in tasks:
                task.cancel()
            for begun in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(begun, Generation):
                    await begun.aclose()
            for ticket in tickets:
                # One whose task was cancelled before it began.
                ticket.fail(error, NOTHING_USED)
            raise

    def place(self, origin: Origin) -> AbstractContextManager[None]:
        """Keep a request's place among its tenant's running ones until the context ends, between its calls too."""
        return self._admission.place(origin)

    async def _admitted(self, request: GenerationRequest, ticket: Ticket) -> Generation:
        budget = AttemptBudget()
        try:
            generation = await self._generate_in_time(request, ticket, budget)
        except BaseException as error:
            ticket.fail(error, budget.usage)
            raise
        generation.settle_with(ticket)
        return generation

    async def _generate_in_time(self, request: GenerationRequest, ticket: Ticket, budget: AttemptBudget) -> Generation:
        deadline = self._limits.deadline(request.origin)
        until = None if deadline == math.inf else asyncio.get_running_loop().time() + deadline - time.perf_counter()
        try:
            async with asyncio.timeout_at(until) as limit:
                return await self._generate(request, ticket, budget, deadline)
        except TimeoutError:
            if limit.expired():
                raise deadline_error(request.origin, deadline) from None
            raise

    async def _generate(
        self, request: GenerationRequest, ticket: Ticket, budget: AttemptBudget, deadline: float
    ) -> Generation:
        self._observer.accepted(request)
        started = time.perf_counter()
        while budget.left:
            self._suspects.check(request)
            try:
                async with self._suspects.trial(request) as trial:
                    trial.attempt = await self._place(request, ticket, budget)
                    generation = budget.generation = await self._begin(trial.attempt, started)
                generation.attempt.limit(deadline if request.is_streamed else math.inf, self._limits.chunk_s)
                if not request.is_streamed:
                    await generation.read_all()
            except LostError as error:
                budget.lose(error)
                log.warning("replica_lost", request_id=request.id, attempts_left=budget.left, cause=error.cause)
                continue
            self._observer.answered(generation)
            return generation
        raise budget.exhausted(request)

    async def _place(self, request: GenerationRequest, ticket: Ticket, budget: AttemptBudget) -> Attempt:
        engine_call = request.engine_call(f"{request.id}-{uuid.uuid4().hex[:8]}", ticket.share)
        placement = await self._router.place(request.call, engine_call.request_id, avoid=budget.lost)
        if budget.left == MAX_ATTEMPTS:
            self._observer.arrived(request, placement)
        self._observer.placed(request, placement)
        rank = [replica for replica in placement.decision.rank if replica not in budget.lost]
        attempt = Attempt(
            self._router,
            self._pool,
            self._observer,
            request,
            placement,
            engine_call,
            rank,
            budget.records,
            hold_s=self._limits.hold_s,
        )
        budget.spend(attempt)
        return attempt

    async def _begin(self, attempt: Attempt, started: float) -> Generation:
        """Return what an attempt has begun; one that cannot begin is closed."""
        try:
            first = await attempt.begin()
            if isinstance(first, EngineRefusal):
                raise first.error()
        except BaseException as error:
            try:
                await attempt.close()
            finally:
                self._observer.ended(attempt, None)
            if isinstance(error, StopAsyncIteration):
                raise ReplicaLostError("the replica ended the call without an answer") from None
            raise
        generation = Generation(attempt, first, time.perf_counter() - started, self._observer)
        self._observer.first_token(generation)
        return generation
