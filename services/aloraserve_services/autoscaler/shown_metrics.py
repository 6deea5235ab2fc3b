"""The metrics of one deployment's scaling, and the address that shows them in Serve's controller."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry

from aloraserve.errors import StartError
from aloraserve.settings import Settings
from aloraserve.telemetry.endpoints import MetricsEndpoint
from aloraserve.telemetry.exposition import serve_metrics
from aloraserve_services.autoscaler.controller_log import controller_log
from aloraserve_services.autoscaler.metrics import ScalingMetrics
from aloraserve_services.node import node_ip

ROLE = "autoscaler"

log = controller_log()


class ShownMetrics:
    """Counts outlive changes of settings; the address is another one where they say so.

    Attributes:
        metrics: of the deployment's scaling.
        endpoint: where they are shown; None: nowhere.
    """

    def __init__(self) -> None:
        self.metrics = ScalingMetrics(CollectorRegistry())
        self.endpoint: MetricsEndpoint | None = None
        self._place: tuple[str, int] | None = None
        self._close: Callable[[], None] | None = None

    def show(self, settings: Settings | None) -> None:
        """Show them where the settings say, unless they are there already."""
        place = (settings.metrics_host, settings.metrics_port) if settings is not None and settings.metrics else None
        if place == self._place:
            return
        self.close()
        if place is None:
            return
        try:
            address, self._close = serve_metrics(*place, node_ip(), self.metrics.registry)
        except StartError as error:
            log.warning("scaling_metrics_not_shown", cause=error.message)
            return
        self._place, self.endpoint = place, MetricsEndpoint(ROLE, ROLE, address)

    def close(self) -> None:
        """Show them no more; the port is free."""
        if self._close is not None:
            self._close()
        self._place = self._close = self.endpoint = None
