"""The contract of a fleet's scaling board: gateways say there what they are asked for, and the scaler what it decided.

Invariants, for every board:

- It is advisory: what it loses costs a decision's quality, or an explanation, never a replica.
- A demand counts until its time to live is over; of one gateway the last one. At most ``MAX_GATEWAYS`` are kept.
- Demands, and the last decision, are those of one application of one Ray cluster: during an upgrade two share a
  namespace, and each scales for its own gateways. Changes are those of all.
- Of decisions the last one is kept, and those that changed something, at most ``MAX_RECORDS``. All expire.
- Every method may be called from any number of processes at once. It raises
  :class:`~aloraserve.errors.DirectoryUnavailableError` when the backend is gone or slower than its timeout, and nothing
  else for that reason. What cannot be read is passed over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from aloraserve.scaling.base import Demand, ScalingDecision

DEMAND_TTL_S = 5.0
RECORD_KEPT_S = 7 * 24 * 3600.0
LATEST_KEPT_S = 60.0
MAX_RECORDS = 200


@dataclass(frozen=True, slots=True)
class ScalingRecord:
    """A decision, and the fleet that it was made for.

    Args:
        at_s: seconds since 1970.
        decision: what was decided.
        running: replicas that took calls.
        starting: replicas that did not yet.
        leaving: ids of those that were to be stopped already.
        gateways: whose demands were known.
        labels: short names of the victims, in their order.
        is_known: whether the directory was read; else Serve's counts decided.
        seam: whether Serve stops the replicas that are chosen; else it chooses its own.
        before: the target before it; None in what earlier releases kept.
    """

    at_s: float
    decision: ScalingDecision
    running: int
    starting: int = 0
    leaving: tuple[str, ...] = ()
    gateways: int = 0
    labels: tuple[str, ...] = ()
    is_known: bool = True
    seam: bool = True
    before: int | None = None


@dataclass(frozen=True, slots=True)
class ScalingHistory:
    """What :meth:`ScalingBoard.history` returns.

    Args:
        latest: the last decision; None if there was none lately.
        changes: those that changed something, the newest first.
    """

    latest: ScalingRecord | None
    changes: tuple[ScalingRecord, ...] = ()


class ScalingBoard(Protocol):
    """See the module's docstring."""

    async def publish(self, demand: Demand, *, ttl_s: float = DEMAND_TTL_S) -> None:
        """Replace what a gateway is asked for."""
        ...

    async def demands(self) -> list[Demand]:
        """Return what each gateway said last, sorted by its id."""
        ...

    async def record(self, record: ScalingRecord, *, is_change: bool) -> None:
        """Keep a decision.

        Args:
            record: of it.
            is_change: whether it is to be kept when the next one comes.
        """
        ...

    async def history(self) -> ScalingHistory:
        """Return the decisions that are kept."""
        ...

    async def close(self) -> None:
        """Release connections. Further calls are undefined."""
        ...
