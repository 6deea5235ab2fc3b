"""Serve's replicas as the pool that serving sends its calls to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Self, cast

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError

from aloraserve.routing.fair_share import TenantShare
from aloraserve.routing.receipts import Outcome
from aloraserve.serving.engine_messages import EngineCall, engine_outcome
from aloraserve.serving.replica_pool import Replies
from aloraserve_services.channel.endpoint import ChannelVersionError, Endpoint
from aloraserve_services.serve_requests import own_request_id


class ServeReservation:
    """See :class:`~aloraserve.serving.replica_pool.Reservation`; a context that holds the place.

    Args:
        handle: of the engine deployment.
        rank: ids of replicas, best first.
    """

    def __init__(self, handle: Any, rank: Sequence[str]) -> None:
        self._handle = handle
        self._choosing = handle.choose_replica(rank=list(rank))
        self._selection: Any = None

    async def __aenter__(self) -> Self:
        own_request_id()
        self._selection = await self._choosing.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._choosing.__aexit__(*error)

    @property
    def replica(self) -> str:
        """See the contract."""
        return str(self._selection.replica_id)

    def send(self, call: EngineCall) -> Replies:
        """See the contract; this is Serve's own iterator."""
        return cast(Replies, self._handle.dispatch(self._selection, call))


class ServePool:
    """See :class:`~aloraserve.serving.replica_pool.ReplicaPool`.

    Args:
        engines: Serve's handle of the engine deployment.
    """

    def __init__(self, engines: Any) -> None:
        self._handle = engines.options(method_name="generate", stream=True)

    def reserve(self, rank: Sequence[str], share: TenantShare | None = None) -> ServeReservation:
        """See the contract; Serve keeps one queue for all tenants."""
        return ServeReservation(self._handle, rank)

    def outcome_of(self, error: Exception) -> Outcome:
        """See the contract."""
        if isinstance(error, BackPressureError):
            return Outcome.OVERLOADED
        if isinstance(error, RayTaskError):
            # Raised in the replica: its engine is dead, or it failed at this call as another would.
            return engine_outcome(type(error.cause).__name__)
        is_loss = isinstance(error, RayError | DeploymentUnavailableError | ReplicaUnavailableError)
        return Outcome.LOST if is_loss else Outcome.FAILED


def replica_endpoints(engines: Any) -> Callable[[str], Awaitable[Endpoint]]:
    """Return what asks a replica, through Serve, where its channel is.

    Its secret comes this way alone: Serve's calls are between processes of one Ray cluster.

    Args:
        engines: Serve's handle of the engine deployment.

    Returns:
        It raises :class:`~aloraserve_services.channel.endpoint.ChannelVersionError` for a replica that has none of this
        version, and Ray's or Serve's own error for one that does not answer.
    """
    handle = engines.options(method_name="endpoint")

    async def endpoint_of(replica: str) -> Endpoint:
        own_request_id()
        try:
            endpoint = Endpoint.from_dict(await handle.remote(rank=[replica]))
        except RayTaskError as error:
            # It answers, and has no such method: it is from before there were channels.
            raise ChannelVersionError(None) from error
        if endpoint.replica != replica:
            raise ReplicaUnavailableError(f"{replica} did not answer; {endpoint.replica} did")
        return endpoint

    return endpoint_of


def any_replica(engines: Any) -> Callable[[], Awaitable[object]]:
    """Return what waits, through Serve, until any replica answers; Serve starts one where there is none.

    Args:
        engines: Serve's handle of the engine deployment.
    """
    handle = engines.options(method_name="endpoint")

    async def ask() -> object:
        own_request_id()
        return await handle.remote()

    return ask
