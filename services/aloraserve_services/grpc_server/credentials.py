"""TLS of a gRPC server, from the same files as HTTP's; files that change are read at the next handshake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import structlog

from aloraserve.errors import SettingsError
from aloraserve.settings import Settings
from aloraserve_services.http_server.tls import server_context

log = structlog.get_logger(__name__)
_Stamps = tuple[tuple[int, int], ...]


class ServerCertificates:
    """Reads a certificate, its key and perhaps the certificates that clients' are signed by.

    Args:
        certificate: PEM file of the certificate chain.
        key: PEM file of its key.
        client_ca: PEM file of who signs clients' certificates, which every client then needs.

    Raises:
        SettingsError: see :func:`~aloraserve_services.http_server.tls.server_context`.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        self._certificate, self._key, self._client_ca = certificate, key, client_ca
        self._stamps = self._stat()
        self._first = self._read()

    def credentials(self) -> grpc.ServerCredentials:
        """Return the credentials of a server."""
        needs_client = self._client_ca is not None
        return grpc.dynamic_ssl_server_credentials(
            self._first, self._changed, require_client_authentication=needs_client
        )

    def _changed(self) -> Any:
        """Return what is in the files if they changed, None else; a thread of gRPC's calls this per handshake."""
        try:
            if (stamps := self._stat()) == self._stamps:
                return None
            self._stamps = stamps
            return self._read()
        except (OSError, SettingsError) as error:
            # The certificate that was read last goes on; the files may be whole at the next handshake.
            log.warning("certificate_not_read", cause=type(error).__name__)
            return None

    def _stat(self) -> _Stamps:
        files = [file for file in (self._certificate, self._key, self._client_ca) if file is not None]
        try:
            return tuple((stat.st_mtime_ns, stat.st_size) for stat in (file.stat() for file in files))
        except OSError:
            return ()

    def _read(self) -> Any:
        server_context(self._certificate, self._key, self._client_ca)
        client_ca = None if self._client_ca is None else self._client_ca.read_bytes()
        pair = (self._key.read_bytes(), self._certificate.read_bytes())
        return grpc.ssl_server_certificate_configuration([pair], client_ca)


def certificates_of(settings: Settings) -> ServerCertificates | None:
    """Return the certificates that the settings name, None without TLS.

    Raises:
        SettingsError: see :class:`ServerCertificates`.
    """
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return ServerCertificates(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
