"""TLS of a gRPC server, from the same files as HTTP's: new ones count from the next handshake on."""

from __future__ import annotations

from typing import Any

import grpc

from aloraserve_services.http_server.tls_files import TlsFiles, TlsMaterial


def server_credentials(tls: TlsFiles) -> grpc.ServerCredentials:
    """Return the credentials of a server.

    Args:
        tls: its files, which somebody else follows.
    """
    used = tls.current

    def changed() -> Any:
        """Return what the files hold if that is new, None else; a thread of gRPC's calls this at each handshake."""
        nonlocal used
        if tls.current is used:
            return None
        used = tls.current
        return _configuration(used)

    needs_client = used.client_ca is not None
    return grpc.dynamic_ssl_server_credentials(_configuration(used), changed, needs_client)


def _configuration(material: TlsMaterial) -> Any:
    pair = (material.key, material.certificate)
    return grpc.ssl_server_certificate_configuration([pair], material.client_ca)
