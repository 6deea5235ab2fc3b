"""Where the HTTP API of a platform is, and the key that its own calls carry."""

from __future__ import annotations

import socket

from aloraserve.errors import StartError
from aloraserve.settings import Settings


def base_url(settings: Settings) -> str:
    """Return the address of the HTTP API, as this machine reaches it."""
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "localhost") else settings.host  # noqa: S104
    host = "::1" if host == "::" else host
    scheme = "http" if settings.tls_certificate is None else "https"
    return f"{scheme}://[{host}]:{settings.port}" if ":" in host else f"{scheme}://{host}:{settings.port}"


def check_ports(settings: Settings) -> None:
    """Raise StartError if something listens already on a port that the settings name."""
    check_port(settings.host, settings.port)
    if settings.grpc_port is not None:
        check_port(settings.host, settings.grpc_port, "grpc_port")


def check_port(host: str, port: int, setting: str = "port") -> None:
    """Raise StartError if something listens on the port already.

    Args:
        host: an IP address, or ``localhost``.
        port: of it.
        setting: key of the settings that chooses the port.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StartError(
                f"port {port} on {host} cannot be used ({error.strerror}): choose another with "
                f"--{setting.replace('_', '-')} or ALORASERVE_{setting.upper()}"
            ) from None


def authorization(settings: Settings) -> dict[str, str]:
    """Return the header that the platform's own calls carry: the first tenant's key, if there are any."""
    for key in settings.api_keys.values():
        return {"Authorization": f"Bearer {key.get_secret_value()}"}
    return {}
