"""Who may speak on a channel: a replica's secret, proofs that one has it, and its certificate.

A replica makes a secret and a certificate when it starts. Gateways get both through Serve, from the replica itself, and
no one else does: neither Redis nor a log nor a command line has them. Proofs go over nonces of both ends, so that none
can be used again; the two ends' proofs differ, so that none can be sent back.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import secrets
import ssl
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

SECRET_BYTES = 32
NONCE_BYTES = 32
_NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "aloraserve engine replica")])
_ALWAYS = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC), datetime.datetime(9999, 12, 31, tzinfo=datetime.UTC)


def new_secret() -> bytes:
    """Return a secret of a replica's own."""
    return secrets.token_bytes(SECRET_BYTES)


def new_nonce() -> bytes:
    """Return a number that is used once."""
    return secrets.token_bytes(NONCE_BYTES)


def proof(secret: bytes, side: str, replica_nonce: bytes, gateway_nonce: bytes) -> bytes:
    """Return the proof that one end has the secret.

    Args:
        secret: of the replica.
        side: which end it is, "gateway" or "replica".
        replica_nonce: of this connection.
        gateway_nonce: likewise.
    """
    return hmac.digest(secret, side.encode() + b"\0" + replica_nonce + gateway_nonce, hashlib.sha256)


def is_proof(given: bytes, secret: bytes, side: str, replica_nonce: bytes, gateway_nonce: bytes) -> bool:
    """Whether that is the proof of an end that has the secret."""
    return hmac.compare_digest(given, proof(secret, side, replica_nonce, gateway_nonce))


def server_context() -> tuple[ssl.SSLContext, str]:
    """Return TLS for a replica with a certificate of its own, and the certificate as PEM.

    It lives as long as the replica may; the key is in this process alone.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_NAME)
        .issuer_name(_NAME)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # Gateways trust this certificate alone, so its dates say nothing; clocks of nodes differ, and are set.
        .not_valid_before(_ALWAYS[0])
        .not_valid_after(_ALWAYS[1])
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # OpenSSL reads a key from a file alone; this one is readable by this user, and gone at once.
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(private + pem)
        context.load_cert_chain(file.name)
    return context, pem.decode()


def client_context(certificate: str) -> ssl.SSLContext:
    """Return TLS for a gateway that trusts one replica's certificate and nothing else.

    Args:
        certificate: the replica's, as PEM.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # The certificate says which replica it is; its address says nothing.
    context.check_hostname = False
    context.load_verify_locations(cadata=certificate)
    return context
