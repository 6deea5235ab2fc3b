"""TLS of the HTTP API, from the files that the settings name."""

from __future__ import annotations

import ssl
from pathlib import Path

from aloraserve.errors import SettingsError


def server_context(certificate: Path, key: Path, client_ca: Path | None = None) -> ssl.SSLContext:
    """Return the context of a server: TLS 1.2 or later.

    Args:
        certificate: PEM file of the certificate and those between it and its root.
        key: PEM file of its key, without a passphrase.
        client_ca: PEM file of who signs clients' certificates, which every client then needs.

    Raises:
        SettingsError: a file cannot be read, is not PEM, or the key is not the certificate's.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    read_file("tls_certificate", certificate)
    read_file("tls_key", key)
    try:
        context.load_cert_chain(certificate, key, password=_no_passphrase)
    except _PassphraseError:
        raise SettingsError(f"tls_key is {str(key)!r}, which needs a passphrase; a key without one is needed") from None
    except ssl.SSLError as error:
        why = "the key is not the certificate's" if error.reason == "KEY_VALUES_MISMATCH" else "they are not PEM files"
        raise SettingsError(
            f"tls_certificate is {str(certificate)!r} and tls_key is {str(key)!r}: {why}; a PEM certificate chain and "
            "its key are needed"
        ) from None
    if client_ca is not None:
        _require_clients_of(context, client_ca)
    return context


def own_context(certificate: Path) -> ssl.SSLContext:
    """Return the context of a client on the server's own machine: it trusts this certificate and no other.

    Args:
        certificate: the server's, whatever name it has.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(certificate)
    return context


def read_file(setting: str, file: Path) -> bytes:
    """Return a file's content.

    Args:
        setting: that names it.
        file: to read.

    Raises:
        SettingsError: it cannot be read.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        raise SettingsError(f"{setting} is {str(file)!r}, which cannot be read: {error.strerror}") from None


class _PassphraseError(Exception):
    """Raised when OpenSSL asks for the key's passphrase, which nobody is there to type."""


def _no_passphrase() -> str:
    raise _PassphraseError


def _require_clients_of(context: ssl.SSLContext, client_ca: Path) -> None:
    read_file("tls_client_ca", client_ca)
    try:
        context.load_verify_locations(client_ca)
    except ssl.SSLError:
        raise SettingsError(f"tls_client_ca is {str(client_ca)!r}, which is not a PEM file of certificates") from None
    context.verify_mode = ssl.CERT_REQUIRED
