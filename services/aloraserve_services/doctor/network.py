"""The ports that a platform of this machine would listen on."""

from __future__ import annotations

from collections.abc import Iterator

from aloraserve.errors import StartError
from aloraserve.settings import Settings
from aloraserve_services.doctor.base import Finding, failed, ok
from aloraserve_services.local import run_file
from aloraserve_services.local.address import check_port


def look_at_ports(settings: Settings) -> Iterator[Finding]:
    """See whether each port is free, or taken by the platform that runs in the state folder."""
    is_running = run_file.read(settings.state_dir) is not None
    host = "127.0.0.1" if settings.host == "localhost" else settings.host
    for name, port in (("port", settings.port), ("grpc_port", settings.grpc_port)):
        if port is None:
            continue
        if is_running:
            yield ok(name, f"{port} of the platform that runs here")
            continue
        try:
            check_port(host, port)
        except StartError:
            yield failed(name, f"{port} on {host} is taken by something else", f"end that, or set another {name}")
        else:
            yield ok(name, f"{port} on {host} is free")
