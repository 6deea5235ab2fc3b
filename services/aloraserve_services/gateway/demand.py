"""What this gateway is asked for, counted and told to the autoscaler."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable

import structlog

from aloraserve.errors import DirectoryUnavailableError
from aloraserve.routing.placement import Placement
from aloraserve.scaling.base import Demand
from aloraserve.scaling.board import ScalingBoard
from aloraserve.serving.attempt import Attempt
from aloraserve.serving.engine_messages import EngineChunk
from aloraserve.serving.generation import Generation
from aloraserve.serving.observers import CallObserver
from aloraserve.serving.request import GenerationRequest
from aloraserve_services.kept_tasks import kept

PUBLISH_EVERY_S = 0.5

log = structlog.get_logger(__name__)


class DemandCounter(CallObserver):
    """Counts what calls ask of engines; see :class:`~aloraserve.scaling.base.Demand`.

    Args:
        waiting: returns how many calls wait for room on a replica.
        has_replica: returns whether there is any.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        waiting: Callable[[], int],
        has_replica: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._waiting = waiting
        self._has_replica = has_replica
        self._clock = clock
        self._gateway = uuid.uuid4().hex[:16]
        self._calls = self._unestimated = self._uncached_tokens = 0
        self._answer_tokens = self._answers = self._ended_tokens = 0
        self._prefill_s = self._prefill_squares_s2 = 0.0

    def arrived(self, request: GenerationRequest, placement: Placement) -> None:
        """Count a call, with what its replica is expected to have to prefill."""
        estimates = placement.decision.estimates
        chosen = next((each for each in estimates if each.replica == placement.replica), None)
        self._calls += 1
        self._uncached_tokens += max(request.prompt_tokens - (chosen.overlap_tokens if chosen else 0), 0)
        if chosen is None:
            self._unestimated += 1
        else:
            self._prefill_s += chosen.prefill_s
            self._prefill_squares_s2 += chosen.prefill_s**2

    def first_token(self, generation: Generation) -> None:
        """Count a token."""
        self._answer_tokens += 1

    def more_tokens(self, generation: Generation, chunk: EngineChunk, itl_s: float | None) -> None:
        """Count the tokens of a chunk."""
        self._answer_tokens += chunk.tokens

    def ended(self, attempt: Attempt, generation: Generation | None) -> None:
        """Count an answer, if there was one."""
        if generation is not None:
            self._answers += 1
            self._ended_tokens += generation.tokens

    def demand(self) -> Demand:
        """Return the counts."""
        waiting = self._waiting()
        return Demand(
            self._gateway,
            self._clock(),
            calls=self._calls,
            uncached_tokens=self._uncached_tokens,
            prefill_s=self._prefill_s,
            prefill_squares_s2=self._prefill_squares_s2,
            answer_tokens=self._answer_tokens,
            answers=self._answers,
            waiting=waiting,
            held=0 if self._has_replica() else waiting,
            unestimated=self._unestimated,
            ended_tokens=self._ended_tokens,
        )


class DemandReports:
    """Keeps the fleet's board up to date about this gateway.

    Args:
        counter: of its calls.
        board: of the fleet, closed at the end of :meth:`running`.
    """

    def __init__(self, counter: DemandCounter, board: ScalingBoard) -> None:
        self._counter = counter
        self._board = board

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Report until the context ends."""
        task = asyncio.create_task(kept(self._report), name="demand")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})
            await self._board.close()

    async def _report(self) -> None:
        was_there = True
        while True:
            try:
                await self._board.publish(self._counter.demand())
                was_there = True
            except DirectoryUnavailableError as error:
                if was_there:
                    log.warning("demand_not_published", cause=error.message)
                was_there = False
            await asyncio.sleep(PUBLISH_EVERY_S)
