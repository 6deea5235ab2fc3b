"""What every process of the platform does to be seen: logs, traces, and a place where its metrics are."""

from __future__ import annotations

from collections.abc import Callable

from aloraserve.directory.base import Directory, Process
from aloraserve.settings import Settings
from aloraserve.telemetry.exposition import serve_metrics
from aloraserve.telemetry.logs import configure_logs
from aloraserve.telemetry.targets import keep_announced
from aloraserve.telemetry.tracing import Tracing


class ObservedProcess:
    """This process, as logs, traces and Prometheus know it.

    Args:
        settings: the platform's.
        role: see :class:`~aloraserve.directory.base.Process`.
        name: likewise.
        node_ip: returns this node's address, as other nodes reach it.
        tracing: of this process; it begins here.

    Attributes:
        process: with its metrics' address; None with ``metrics: false``.
    """

    def __init__(self, settings: Settings, role: str, name: str, node_ip: Callable[[], str], tracing: Tracing) -> None:
        configure_logs(settings.log_format)
        tracing.start(f"aloraserve-{role}", name, settings.otlp_endpoint)
        self.process: Process | None = None
        if settings.metrics:
            address = serve_metrics(settings.metrics_host, settings.metrics_port, node_ip())
            self.process = Process(role, name, address)

    async def keep_announced(self, directory: Directory) -> None:
        """Keep this process in the directory's list of those with metrics, until cancelled."""
        if self.process is not None:
            await keep_announced(directory, self.process)
