"""One round of the autoscaler: read the fleet, decide, mark who leaves, keep the decision for explanations."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

from aloraserve.errors import DirectoryUnavailableError
from aloraserve.scaling.base import FleetReading, Scaler, ScalingDecision
from aloraserve.scaling.board import ScalingBoard, ScalingRecord
from aloraserve_services.autoscaler.controller_log import controller_log
from aloraserve_services.autoscaler.departures import Departures
from aloraserve_services.autoscaler.fleet_reader import FleetFacts, Reader
from aloraserve_services.autoscaler.metrics import ScalingMetrics
from aloraserve_services.autoscaler.serve_view import ServeView

log = controller_log()


class Decider:
    """See the module's docstring.

    Args:
        reader: of the fleet.
        scaler: decides.
        departures: marks.
        board: keeps decisions.
        metrics: show them.
        has_seam: whether Serve stops the replicas that are chosen.
        clock: seconds that never go back, for the scaler.
        date: seconds since 1970.
    """

    def __init__(
        self,
        reader: Reader,
        scaler: Scaler,
        departures: Departures,
        board: ScalingBoard,
        metrics: ScalingMetrics,
        *,
        has_seam: bool,
        clock: Callable[[], float] = time.monotonic,
        date: Callable[[], float] = time.time,
    ) -> None:
        self._reader = reader
        self._scaler = scaler
        self._departures = departures
        self._board = board
        self._metrics = metrics
        self._has_seam = has_seam
        self._clock = clock
        self._date = date
        self._target: int | None = None

    async def decide(self, view: ServeView) -> int:
        """Return how many replicas there are to be; those that leave for it are marked by then."""
        facts = await self._reader.read()
        record = self._decided(view, facts)
        decision = record.decision
        await self._departures.follow(
            decision.victims, decision.target, view.running.keys(), facts.cells, is_known=facts.is_known
        )
        before = view.target if self._target is None else self._target
        await self._keep(replace(record, before=before), before)
        self._target = decision.target
        return decision.target

    def _decided(self, view: ServeView, facts: FleetFacts) -> ScalingRecord:
        """Return the decision for a fleet whose replicas are Serve's running ones, as far as the directory has them."""
        states = [state for state in facts.states if state.replica in view.running]
        leaving = tuple(replica for replica in self._departures.chosen if replica in view.running)
        # An update has old and new ones at a time; those beyond what was asked for are Serve's to stop.
        asked = max(view.target, self._target or 0)
        running = min(len(view.running) - len(leaving), asked)
        reading = FleetReading(
            self._clock(),
            running,
            starting=max(view.target - len(view.running), 0),
            replicas=states,
            demands=facts.demands,
            is_known=facts.is_known,
            ongoing=view.ongoing,
            least=view.least,
            most=view.most,
            gateways=view.gateways,
        )
        decision = self._scaler.decide(reading)
        if not self._has_seam:
            # Serve stops others: those that were chosen would get no calls though they stay.
            decision = replace(decision, victims=())
        labels = {state.replica: state.label for state in states}
        return ScalingRecord(
            self._date(),
            decision,
            running,
            reading.starting,
            leaving,
            len(facts.demands),
            tuple(labels.get(replica, replica) for replica in decision.victims),
            is_known=facts.is_known,
            seam=self._has_seam,
        )

    async def _keep(self, record: ScalingRecord, before: int) -> None:
        """Show a decision; keep and log one that changes something."""
        decision = record.decision
        is_change = decision.target != before or bool(decision.victims)
        self._metrics.show(record)
        if is_change:
            self._metrics.count_change(before, record)
            log.info("scaled", before=before, **_logged(decision), running=record.running, victims=record.labels)
        try:
            await self._board.record(record, is_change=is_change)
        except DirectoryUnavailableError:
            self._metrics.failures.labels("recording").inc()


def _logged(decision: ScalingDecision) -> dict[str, object]:
    estimate = decision.estimate
    return {
        "target": decision.target,
        "reason": decision.reason.value,
        "needed": decision.needed,
        "expected_ttft_s": _finite(estimate.ttft_s),
        "prefill_s_per_s": _finite(estimate.prefill_s_per_s),
        "decode_s_per_s": _finite(estimate.decode_s_per_s),
        "backlog_s": _finite(estimate.backlog_s),
    }


def _finite(figure: float) -> float | None:
    """Return a figure as JSON has it: ``Infinity`` is none for those who read logs."""
    return round(figure, 3) if math.isfinite(figure) else None
