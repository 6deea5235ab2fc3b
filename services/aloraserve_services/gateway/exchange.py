"""One attempt to have a call answered by one replica: reserved, dispatched, its claim kept true."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import structlog

from aloraserve.directory.base import CLAIM_TTL_S
from aloraserve.errors import OverloadedError
from aloraserve.routing.base import Call
from aloraserve.routing.placement import Placement
from aloraserve.routing.receipts import Outcome
from aloraserve.routing.router import Router
from aloraserve.serving.engine_messages import EngineCall, EngineChunk, EngineReply
from aloraserve_services.gateway.metrics import METRICS

CHOOSE_TIMEOUT_S = 600.0
NO_REPLICA_TIMEOUT_S = 5.0
log = structlog.get_logger(__name__)

CUT_SHORT = ("abort", "error")
"""How vLLM ends an answer that is not whole."""


class LostError(Exception):
    """Raised when the replica could not be reached or died."""

    def __init__(self, replica: str, cause: str) -> None:
        super().__init__(f"replica {replica} lost: {cause}")
        self.replica = replica
        self.cause = cause


class Exchange:
    """One attempt at one replica.

    Attributes:
        placement: the decision with what became of its claim.
        replica: who got the call, empty before.
        outcome: what became of the attempt.
        cached_tokens: of the first chunk.
    """

    def __init__(
        self,
        router: Router,
        handle: Any,
        call: Call,
        placement: Placement,
        engine_call: EngineCall,
        rank: list[str],
    ) -> None:
        self.placement = placement
        self.replica = ""
        self.outcome = Outcome.FAILED
        self.cached_tokens = 0
        self._router = router
        self._handle = handle
        self._call = call
        self._engine_call = engine_call
        self._rank = rank
        self._placed_at = time.perf_counter()
        self._moving: asyncio.Task[None] | None = None

    async def replies(self) -> AsyncGenerator[EngineReply]:
        """Yield the replies of the first replica in rank that takes the call."""
        rank = self._rank
        answered = False
        response: Any = None
        try:
            async with asyncio.timeout(self._patience_s(rank)) as waiting, self._reserved(rank) as selection:
                waiting.reschedule(None)
                self.replica = selection.replica_id
                self._follow()
                response = self._handle.dispatch(selection, self._engine_call)
                async for reply in response:
                    if isinstance(reply, EngineChunk):
                        if reply.finish_reason in CUT_SHORT:
                            raise LostError(self.replica, f"the engine ended with {reply.finish_reason!r}")
                        if not answered:
                            answered, self.outcome, self.cached_tokens = True, Outcome.ANSWERED, reply.cached_tokens
                    else:
                        self.outcome = Outcome.REFUSED
                    yield reply
                response = None
        except _serve_errors().overloaded as error:
            self.outcome = Outcome.OVERLOADED
            raise OverloadedError("the waiting room is full; try again") from error
        except _serve_errors().lost as error:
            if not _is_loss(error):
                raise
            self.outcome = Outcome.LOST
            raise LostError(self.replica, type(error).__name__) from error
        except LostError:
            self.outcome = Outcome.LOST
            raise
        except asyncio.CancelledError:
            self.outcome = Outcome.CANCELLED
            raise
        except TimeoutError:
            if self.replica:
                raise
            self.outcome = Outcome.OVERLOADED
            raise OverloadedError(f"no replica took the call within {self._patience_s(rank):g} s") from None
        finally:
            # Serve cancels only what carries its own request id, and calls here have one each.
            if response is not None:
                response.cancel()
            if self._moving is not None:
                await self._moved(self._moving)
            if not answered:
                await self._router.withdraw(self._call, self.placement, self._engine_call.request_id)

    def _follow(self) -> None:
        """Claim for the replica that Serve gave, if that is another one or the claim has expired meanwhile.

        The first in rank may have been full. The claim goes out before the call does, and nobody waits for it.
        """
        if self.replica != self.placement.replica or time.perf_counter() - self._placed_at >= CLAIM_TTL_S:
            self._moving = asyncio.create_task(self._move())

    async def _move(self) -> None:
        self.placement = await self._router.move(self._call, self.placement, self.replica, self._engine_call.request_id)
        METRICS.claims.labels(self.placement.claim).inc()

    @staticmethod
    async def _moved(moving: asyncio.Task[None]) -> None:
        """Wait for a claim that moves; what fails there is no fault of the call."""
        await asyncio.wait({moving})
        if not moving.cancelled() and (error := moving.exception()) is not None:
            log.error("claim_move_failed", cause=type(error).__name__, exc_info=error)

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
