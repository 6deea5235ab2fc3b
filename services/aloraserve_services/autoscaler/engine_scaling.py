"""Autoscaling of the engines in Serve's controller: a thread decides, and Serve's loop only reads what it decided."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aloraserve.directory.redis import RedisDirectory
from aloraserve.scaling.base import ScalingRules
from aloraserve.scaling.board import ScalingBoard
from aloraserve.scaling.memory import MemoryBoard
from aloraserve.scaling.objective_scaler import ObjectiveScaler
from aloraserve.settings import Settings
from aloraserve.telemetry.targets import keep_registered
from aloraserve_services import stores
from aloraserve_services.autoscaler.controller_log import controller_log
from aloraserve_services.autoscaler.decider import Decider
from aloraserve_services.autoscaler.departures import Departures
from aloraserve_services.autoscaler.fleet_reader import FleetReader, NoReader, Reader
from aloraserve_services.autoscaler.serve_view import ServeView, fleet_settings, ongoing_requests, serve_view
from aloraserve_services.autoscaler.shown_metrics import ShownMetrics
from aloraserve_services.autoscaler.victims import Leaving, cease_for, choose_for
from aloraserve_services.node import fleet_application

DECIDE_EVERY_S = 0.5
COUNT_EVERY_S = 1.0
ENDS_S = 60.0
"""How long Serve may not ask until the thread ends: autoscaling was turned off, or the application deleted."""
LOOKED_S = 5.0
"""How long Serve may not ask: for longer nothing is decided."""
STOOD_S = 10.0
"""How long a decision stands without another one; then what there is stays."""
RESTART_S = 1.0
JOIN_S = 30.0
"""How long the one before may take to end."""

log = controller_log()
_lock = threading.Lock()
_running: dict[Any, EngineScaling] = {}
_shown: dict[Any, ShownMetrics] = {}


def begin(context: Any, rules: dict[str, Any]) -> EngineScaling:
    """Begin to scale a deployment; what did so before with other settings ends. Reads and opens: not for Serve's loop.

    Args:
        context: Serve's ``AutoscalingContext``.
        rules: :class:`~aloraserve.scaling.base.ScalingRules` as plain values.
    """
    settings = None
    try:
        settings = fleet_settings(context)
    except LookupError as error:
        log.error("fleet_settings_not_found", cause=str(error))
    deployment_id = context.deployment_id
    with _lock:
        scaling = EngineScaling(settings, deployment_id, ScalingRules(**rules), earlier=_running.get(deployment_id))
        _running[deployment_id] = scaling
    scaling.start()
    return scaling


class EngineScaling:
    """Decides in a thread with clients of its own; ``target`` waits for nothing and reads what it left.

    Args:
        settings: of the fleet; None where they cannot be had, which leaves Serve's counts.
        deployment_id: Serve's id of the engines.
        rules: of the scaler.
        open_decider: returns what decides, and how to close it; for tests.
        earlier: what scaled the deployment until now; what it learned stays, and those that leave by its choice go on
            leaving.
    """

    def __init__(
        self,
        settings: Settings | None,
        deployment_id: Any,
        rules: ScalingRules,
        open_decider: Callable[[EngineScaling], tuple[Any, Callable[[], Awaitable[None]]]] | None = None,
        earlier: EngineScaling | None = None,
    ) -> None:
        self.settings = settings
        self.rules = rules
        shown = _shown.setdefault(deployment_id, ShownMetrics())
        shown.show(settings)
        self.metrics, self.endpoint = shown.metrics, shown.endpoint
        self.departures: Departures | None = None
        self.scaler: ObjectiveScaler | None = None
        self._deployment_id = deployment_id
        self._earlier = earlier
        self._open = open_decider or _open_decider
        self._view: ServeView | None = None
        self._ongoing: int | None = None
        self._counted_at = -COUNT_EVERY_S
        self._target: int | None = None
        self._decided_at = 0.0
        self._asked_at = time.monotonic()
        self._over = threading.Event()
        problem = choose_for(deployment_id, self._leaving)
        self.has_seam = problem is None
        if problem is not None:
            log.warning("serve_chooses_victims", cause=problem)
        self._thread = threading.Thread(target=self._work, name="engine-scaling", daemon=True)

    def start(self) -> None:
        """Begin to decide."""
        self._thread.start()

    def stop(self) -> None:
        """Decide nothing any more."""
        self._over.set()

    def end(self) -> None:
        """Stop, and wait until nothing is marked any more."""
        self.stop()
        if self._thread.is_alive():
            self._thread.join(JOIN_S)

    @property
    def is_over(self) -> bool:
        """Whether nothing is decided any more."""
        return self._over.is_set()

    @property
    def application(self) -> str:
        """Name of the fleet's application among those that share its namespace."""
        return fleet_application(self._deployment_id.app_name)

    def open_scaler(self) -> ObjectiveScaler:
        """Return what decides, with what the one before has learned, unless that one failed or still runs."""
        earlier = self._earlier
        known = None if earlier is None or earlier.is_running else earlier.learned
        self.scaler = ObjectiveScaler(self.rules) if known is None else known
        self.scaler.go_by(self.rules)
        return self.scaler

    @property
    def learned(self) -> ObjectiveScaler | None:
        """What has decided, with its memory of the load."""
        return self.scaler or (None if self._earlier is None else self._earlier.learned)

    @property
    def is_running(self) -> bool:
        """Whether its thread is still there."""
        return self._thread.is_alive()

    @property
    def chosen(self) -> tuple[str, ...]:
        """Ids of the replicas that leave."""
        if self.departures is not None:
            return self.departures.chosen
        return () if self._earlier is None else self._earlier.chosen

    def target(self, context: Any) -> int:
        """Return how many replicas there are to be, as last decided; for Serve's loop.

        Args:
            context: Serve's ``AutoscalingContext``.
        """
        now = self._asked_at = time.monotonic()
        if now - self._counted_at >= COUNT_EVERY_S:
            self._counted_at, self._ongoing = now, self._count(context)
        self._view = serve_view(context, self._ongoing)
        if self._target is None or now - self._decided_at > STOOD_S:
            return self._view.target
        return self._target

    def _count(self, context: Any) -> int | None:
        try:
            return ongoing_requests(context)
        except Exception as error:  # noqa: BLE001 - Serve's own code, which may be another one
            self.metrics.failures.labels("counting").inc()
            log.warning("requests_not_counted", cause=type(error).__name__)
            return None

    def _leaving(self) -> Leaving:
        view = self._view
        # Of one that Serve has not asked lately the choice may be hours old.
        if view is None or time.monotonic() - view.at > STOOD_S:
            return Leaving({}, ())
        return Leaving(view.running, self.chosen, self._stopped)

    def _stopped(self, is_ours: bool) -> None:
        self.metrics.stopped.labels("worth" if is_ours else "serve").inc()

    def _work(self) -> None:
        """Decide until told to stop, or until Serve asks no more, whatever fails."""
        if self._earlier is not None:
            # Two would mark each other's.
            self._earlier.end()
        while self._is_wanted():
            try:
                asyncio.run(self._decide())
            except Exception as error:
                self.metrics.failures.labels("deciding").inc()
                log.error("scaling_failed", cause=type(error).__name__, exc_info=error)
            self._over.wait(RESTART_S)
        self._forget()

    def _is_wanted(self) -> bool:
        if time.monotonic() - self._asked_at > ENDS_S:
            self.stop()
        return not self.is_over

    def _forget(self) -> None:
        """Leave Serve's controller as if nothing had ever scaled the deployment, unless another one does."""
        with _lock:
            if _running.get(self._deployment_id) is not self:
                return
            del _running[self._deployment_id]
            cease_for(self._deployment_id, self._leaving)
            _shown.pop(self._deployment_id).close()

    async def _decide(self) -> None:
        decider, close = self._open(self)
        self._earlier = None
        registering = asyncio.create_task(self._register())
        try:
            while self._is_wanted():
                view = self._view
                if view is not None and time.monotonic() - view.at <= LOOKED_S:
                    self._target = await decider.decide(view)
                    self._decided_at = time.monotonic()
                await asyncio.sleep(DECIDE_EVERY_S)
        finally:
            registering.cancel()
            await close()

    async def _register(self) -> None:
        """Keep the metrics' address in the fleet's list."""
        if self.endpoint is None or self.settings is None:
            return
        endpoints = stores.open_endpoints(self.settings)
        try:
            await keep_registered(endpoints, self.endpoint)
        finally:
            await endpoints.close()


def _open_decider(scaling: EngineScaling) -> tuple[Decider, Callable[[], Awaitable[None]]]:
    settings, metrics = scaling.settings, scaling.metrics
    directories: list[RedisDirectory] = []
    board: ScalingBoard = MemoryBoard()
    reader: Reader = NoReader()
    if settings is not None:
        directories = [stores.open_directory(settings, cell) for cell in range(settings.cells)]
        board = stores.open_board(settings, scaling.application)
        reader = FleetReader(directories, board, metrics.failures.labels("reading").inc)
    departures = Departures(directories, metrics.failures.labels("marking").inc, scaling.chosen)
    scaling.departures = departures
    decider = Decider(reader, scaling.open_scaler(), departures, board, metrics, has_seam=scaling.has_seam)

    async def close() -> None:
        for directory in directories:
            await directory.close()
        await board.close()

    return decider, close
