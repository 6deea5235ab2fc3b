"""The port to the replicas: how a call reaches one of them, whatever connects the two.

A pool only hands out and sends: which replica is best was decided before. It may be used by any number of calls at
once, on one event loop. Its errors are its transport's own; :meth:`ReplicaPool.outcome_of` says what they mean.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from aloraserve.routing.fair_share import TenantShare
from aloraserve.routing.receipts import Outcome
from aloraserve.serving.engine_messages import EngineCall, EngineReply


class Replies(Protocol):
    """A replica's replies to one call, as they come.

    A pool should hand out its transport's own iterator: each further one costs every chunk some microseconds. One that
    knows has ``is_ready``: whether the next reply, or the end, can be had without waiting; such replies leave for the
    client together.
    """

    def __aiter__(self) -> AsyncIterator[EngineReply]:
        """Return this."""
        ...

    async def __anext__(self) -> EngineReply:
        """Return the next reply."""
        ...

    def cancel(self) -> None:
        """End the call in the replica, whether its replies were read or not."""
        ...


class Reservation(Protocol):
    """A place on a replica that is held for one call."""

    @property
    def replica(self) -> str:
        """Id of the replica. It may change until the first reply: one that turns out to be full passes the call on."""
        ...

    def send(self, call: EngineCall) -> Replies:
        """Send the call to the replica; once, while the reservation is held."""
        ...


class ReplicaPool(Protocol):
    """See the module's docstring."""

    def reserve(
        self, rank: Sequence[str], share: TenantShare | None = None
    ) -> AbstractAsyncContextManager[Reservation]:
        """Hold a place on a replica, until the context ends.

        Waits for as long as all replicas are full, each in turn; a caller that is cancelled meanwhile leaves no place
        behind. The number of those that wait is bounded: one more is an error whose outcome is ``OVERLOADED``, for it
        or for one of a tenant that has more waiting than its share.

        Args:
            rank: ids of replicas, best first. The first that has room is taken, and of those that are not in rank one
                if none of these has.
            share: of the call's tenant, None without tenants.
        """
        ...

    def outcome_of(self, error: Exception) -> Outcome:
        """Return what an error of this pool's means for an attempt.

        ``ENGINE_ENDED``: the replica's engine ended under the call. ``LOST``: the replica died, or cannot be reached;
        what ended it is not known. ``OVERLOADED``: too many calls wait already; the error may have ``retry_after_s``.
        ``FAILED``: another replica would fail at this call in the same way.
        """
        ...
