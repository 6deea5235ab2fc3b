"""Serve's part of routing: it only puts replicas in the order that the gateway asked for.

The decision is made before (``aloraserve.routing``), where it can be tested, explained and simulated. Serve keeps what
it is good at: knowing which replicas live, holding a slot on one, retrying on the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica


class RankedRequestRouter(RequestRouter):
    """Tries the replicas in the order of the call's ``rank`` argument, then the others.

    Serve probes a replica whose queue length it does not know or has not heard for 10 s, and passes it over if the
    answer takes longer than the deadline: 0.1 s by default, which a replica in the middle of a prefill misses, and
    loses the call that its cache was chosen for.
    """

    queue_len_response_deadline_s = 2.0
    max_queue_len_response_deadline_s = 2.0

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Note who is there, for fallback decisions."""
        super().update_replicas(replicas)
        # Imported here: this class runs as a copy whose module globals are not the gateway's.
        from aloraserve_services.gateway.known_replicas import note_replicas

        ids = (replica.replica_id.unique_id for replica in replicas)
        note_replicas(self._deployment_id.name, self._deployment_id.app_name, ids)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Return one replica a rank, best first.

        Args:
            candidate_replicas: those that Serve knows.
            pending_request: its ``rank`` keyword argument lists replica ids; unknown ids are passed over.
        """
        if pending_request is None:
            return [[replica] for replica in candidate_replicas]
        # Without it Serve retries full replicas in a loop that never sleeps.
        pending_request.routing_context.should_backoff = True
        return [[replica] for replica in in_order(candidate_replicas, pending_request.kwargs.get("rank") or ())]


def in_order(replicas: Sequence[Any], rank: Sequence[str]) -> list[Any]:
    """Return every replica, those in ``rank`` first and in its order, the others as they came."""
    position = {replica: index for index, replica in enumerate(rank)}
    return sorted(replicas, key=lambda replica: position.get(replica.replica_id.unique_id, len(position)))
