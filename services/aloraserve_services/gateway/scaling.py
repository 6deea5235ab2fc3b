"""What the autoscaler decided, as administrators see it."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from aloraserve.errors import DirectoryUnavailableError
from aloraserve.scaling.board import ScalingBoard, ScalingRecord
from aloraserve.settings import Settings


class ScalingReporter:
    """Reads the fleet's board.

    Args:
        settings: of the fleet.
        board: where decisions are kept.
    """

    def __init__(self, settings: Settings, board: ScalingBoard) -> None:
        self._settings = settings
        self._board = board

    async def report(self) -> dict[str, Any]:
        """Return the last decision, and those that changed something, the newest first.

        ``board`` says whether they could be read. Without autoscaling there are none.
        """
        settings = self._settings
        if not settings.autoscaling:
            return {"autoscaling": False, "replicas": settings.replicas, "latest": None, "changes": []}
        report: dict[str, Any] = {
            "autoscaling": True,
            "min_replicas": settings.min_replicas,
            "max_replicas": settings.max_replicas,
            "ttft_objective_s": settings.ttft_objective_s,
            "itl_objective_s": settings.tpot_objective_ms / 1000,
        }
        try:
            history = await self._board.history()
        except DirectoryUnavailableError:
            return report | {"board": "cannot be reached", "latest": None, "changes": []}
        latest = None if history.latest is None else _shown(history.latest)
        return report | {"board": "ok", "latest": latest, "changes": [_shown(change) for change in history.changes]}


def _shown(record: ScalingRecord) -> dict[str, Any]:
    """Return a record as JSON has it, in which no number is infinite."""
    decision = record.decision
    estimate = {
        name: round(value, 4) if value < float("inf") else None for name, value in asdict(decision.estimate).items()
    }
    return {
        "at": datetime.fromtimestamp(record.at_s, UTC).isoformat(timespec="milliseconds"),
        "target": decision.target,
        "before": record.before,
        "reason": decision.reason.value,
        "needed": decision.needed,
        "running": record.running,
        "starting": record.starting,
        "leaving": list(record.leaving),
        "victims": [
            {"replica": replica, "label": label}
            for replica, label in zip(decision.victims, record.labels, strict=False)
        ],
        "gateways": record.gateways,
        "source": "directory" if record.is_known else "serve",
        "victims_chosen_by": "worth" if record.seam else "serve",
        "estimate": estimate,
    }
