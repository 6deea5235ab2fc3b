"""Certificates that are replaced while servers run: read, checked, and read again when they change."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from cryptography import x509

from aloraserve.errors import SettingsError
from aloraserve.settings import Settings
from aloraserve_services.http_server.tls import read_file, server_context

FOLLOW_EVERY_S = 2.0
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """What a server shows and asks for, checked: the key is the certificate's, which is valid now.

    Args:
        certificate: PEM chain.
        key: its PEM key.
        client_ca: PEM certificates that clients' own have to be signed by; None asks for none.
        context: of a server with these.
        expires: when the certificate does.
    """

    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    context: ssl.SSLContext = field(repr=False, compare=False)
    expires: datetime.datetime


class TlsFiles:
    """The files of a server's TLS, followed.

    Whoever replaces them (cert-manager swaps a link) may do it in any order: files that do not fit together are not
    used, and read again at the next look.

    Args:
        certificate: see :func:`~aloraserve_services.http_server.tls.server_context`, as the next two.
        key: likewise.
        client_ca: likewise.

    Attributes:
        current: what is used now; any thread may read it.

    Raises:
        SettingsError: a file cannot be read, is not PEM, does not fit the others, or the certificate is not valid now.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        self._files = (certificate, key, client_ca)
        self.current = self._read()

    @classmethod
    def of(cls, settings: Settings) -> TlsFiles | None:
        """Return the files that the settings name, None for servers without TLS.

        Raises:
            SettingsError: see the class.
        """
        if settings.tls_certificate is None or settings.tls_key is None:
            return None
        return cls(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)

    def reload(self) -> bool:
        """Read the files; return whether ``current`` is another one now.

        Raises:
            SettingsError: see the class; ``current`` stays.
        """
        found = self._read()
        is_new = found != self.current
        if is_new:
            self.current = found
        return is_new

    async def follow(
        self,
        use: Callable[[TlsMaterial], Awaitable[None]],
        refused: Callable[[], None] = lambda: None,
        every_s: float = FOLLOW_EVERY_S,
    ) -> None:
        """Have new files used until cancelled.

        Args:
            use: called with each new material.
            refused: called when files have changed and cannot be used; those before stay in use.
            every_s: seconds between two looks.
        """
        fault = ""
        while True:
            await asyncio.sleep(every_s)
            try:
                if await asyncio.to_thread(self.reload):
                    await use(self.current)
                    log.info("tls_files_loaded", expires=self.current.expires.isoformat())
                fault = ""
            except (SettingsError, OSError, ValueError) as error:
                # Files amid their replacement may be missing or cut. Wrong ones are reported once.
                cause = error.message if isinstance(error, SettingsError) else type(error).__name__
                if cause != fault:
                    fault = cause
                    log.error("tls_files_refused", cause=fault, still_expires=self.current.expires.isoformat())
                    refused()

    def _read(self) -> TlsMaterial:
        contents = self._contents()
        context = server_context(*self._files)
        expires = _valid_until(self._files[0], contents[0])
        # OpenSSL reads files only: what it has read is known if they were the same before and after.
        if self._contents() != contents:
            raise SettingsError(f"tls_certificate is {str(self._files[0])!r}, which is being replaced")
        return TlsMaterial(*contents, context=context, expires=expires)

    def _contents(self) -> tuple[bytes, bytes, bytes | None]:
        certificate, key, client_ca = self._files
        authorities = None if client_ca is None else read_file("tls_client_ca", client_ca)
        return read_file("tls_certificate", certificate), read_file("tls_key", key), authorities


def _valid_until(file: Path, pem: bytes) -> datetime.datetime:
    """Return when a certificate expires; raise SettingsError unless it is valid now."""
    try:
        certificate, *_ = x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise SettingsError(f"tls_certificate is {str(file)!r}, which has no certificate that can be read") from None
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begin <= datetime.datetime.now(datetime.UTC) < end:
        raise SettingsError(
            f"tls_certificate is {str(file)!r}, which is valid from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} "
            "UTC, not now"
        )
    return end
