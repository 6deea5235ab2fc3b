"""How every process of the platform is seen: its logs, its traces, and where its metrics are."""

from __future__ import annotations

from collections.abc import Callable

from aloraserve.settings import Settings
from aloraserve.telemetry.endpoints import EndpointRegistry, MetricsEndpoint
from aloraserve.telemetry.exposition import serve_metrics
from aloraserve.telemetry.log_files import log_file, write_output_to
from aloraserve.telemetry.logs import configure_logs
from aloraserve.telemetry.targets import keep_registered
from aloraserve.telemetry.tracing import Tracing


class ObservedProcess:
    """This process, as logs, traces and Prometheus know it.

    Args:
        settings: of the platform.
        role: see :class:`~aloraserve.telemetry.endpoints.MetricsEndpoint`.
        name: likewise.
        node_ip: returns this node's address, as other nodes reach it.
        tracing: of this process; it begins here.

    Attributes:
        endpoint: where its metrics are; None with ``metrics: false``.
    """

    def __init__(self, settings: Settings, role: str, name: str, node_ip: Callable[[], str], tracing: Tracing) -> None:
        if settings.log_dir is not None:
            write_output_to(log_file(settings.log_dir, name))
        configure_logs(settings.log_format)
        tracing.start(f"aloraserve-{role}", name, settings.otlp_endpoint)
        self.endpoint: MetricsEndpoint | None = None
        if settings.metrics:
            address = serve_metrics(settings.metrics_host, settings.metrics_port, node_ip()).address
            self.endpoint = MetricsEndpoint(role, name, address)

    async def keep_registered(self, registry: EndpointRegistry) -> None:
        """Keep this process in the list of those with metrics, until cancelled."""
        if self.endpoint is not None:
            await keep_registered(registry, self.endpoint)
