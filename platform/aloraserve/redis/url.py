"""From a URL to where servers are and how to log in there."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from aloraserve.redis.credentials import DEFAULT_USER, Credentials, CredentialsFile, FixedCredentials, Login

DEFAULT_PORT = 6379
DEFAULT_SENTINEL_PORT = 26379
SCHEMES = (
    "redis://, rediss:// and unix:// (one server), redis+sentinel:// and rediss+sentinel:// "
    "(host:port,host:port/service/db), redis+cluster:// and rediss+cluster:// (host:port,host:port)"
)
_TLS_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
OPTIONS = ("db", "credentials_file", "sentinel_username", "sentinel_password", *_TLS_OPTIONS)
UNREADABLE = "<unreadable Redis URL>"
_SHOWN_SCHEMES = ("redis", "rediss", "unix")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%\w]+\]|[\w.-]+)(:\d{1,5})?")
NO_LOGIN = FixedCredentials()
_CHECKS = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_SWITCHES = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class Deployment(Enum):
    """How servers stand to each other."""

    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


class Host(NamedTuple):
    """Where a server listens.

    Args:
        name: a host's name or address, or the path of a Unix socket.
        port: 0 for a Unix socket.
    """

    name: str
    port: int

    def __str__(self) -> str:
        if not self.port:
            return self.name
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


@dataclass(frozen=True, slots=True)
class Tls:
    """How a connection is encrypted and its server checked.

    Args:
        ca_certs: file with the authorities that are trusted, None for the system's.
        certfile: this side's certificate chain.
        keyfile: its key.
        checks: of the server's certificate.
        check_hostname: whether it has to name the host.
    """

    ca_certs: str | None
    certfile: str | None
    keyfile: str | None
    checks: ssl.VerifyMode
    check_hostname: bool

    def context(self) -> ssl.SSLContext:
        """Return a context with the files as they are now. Blocks while they are read.

        Raises:
            OSError: a file cannot be read, or is not what it should be.
        """
        context = ssl.create_default_context(cafile=self.ca_certs)
        context.check_hostname = self.check_hostname
        context.verify_mode = self.checks
        if self.certfile:
            context.load_cert_chain(self.certfile, self.keyfile)
        return context


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """What a URL says.

    Args:
        deployment: one of :class:`Deployment`.
        hosts: of the server, the Sentinels, or some servers of the cluster.
        credentials: for the servers.
        service: that Sentinels watch.
        database: its number.
        tls: None for plain connections.
        sentinel_credentials: for the Sentinels.
    """

    deployment: Deployment
    hosts: tuple[Host, ...]
    credentials: Credentials
    service: str = ""
    database: int = 0
    tls: Tls | None = None
    sentinel_credentials: Credentials = NO_LOGIN


def redacted_url(url: str) -> str:
    """Return ``url`` without its passwords, for messages and logs.

    Whatever stands before the last ``@`` may be a part of one, of a URL that cannot be read too.
    """
    scheme, _, rest = url.partition(":")
    if not rest.startswith("//"):
        # Nothing says where the password of a URL without slashes is.
        return f"{scheme}:***" if "@" in rest and scheme in _SHOWN_SCHEMES else UNREADABLE
    login, at, after = rest[2:].rpartition("@")
    place, _, query = after.partition("?")
    authority, slash, path = place.partition("/")
    try:
        for host in filter(None, authority.split(",")):
            _host(host, DEFAULT_PORT)
    except ValueError:
        return UNREADABLE
    options = [(key, "***" if "password" in key else value) for key, value in parse_qsl(query)]
    shown = f"?{urlencode(options, safe='*/')}" if options else ""
    return f"{scheme}://{_redacted_login(login)}{at}{authority}{slash}{path}{shown}"


def _redacted_login(login: str) -> str:
    name, colon, _ = login.partition(":")
    if colon and re.fullmatch(r"[\w.-]{0,64}", name):
        return f"{name}:***"
    return "***" if login else ""


def read_url(url: str) -> RedisAddress:
    """Return what ``url`` says.

    Args:
        url: one of :data:`SCHEMES`. User and password come before the hosts, percent-encoded. Options follow as a
            query: :data:`OPTIONS`; ``credentials_file`` stands in place of user and password, and ``sentinel_username``
            and ``sentinel_password`` are for Sentinels.

    Raises:
        ValueError: the URL is none of these. The message repeats nothing of it.
    """
    scheme, _, rest = url.partition(":")
    kind, _, variant = scheme.lower().partition("+")
    if variant not in _READERS or kind not in (("redis", "rediss") if variant else ("redis", "rediss", "unix")):
        raise ValueError(f"the Redis URL has the scheme {scheme[:20]!r}; accepted are {SCHEMES}")
    try:
        if not rest.startswith("//"):
            raise ValueError("no slashes")
        return _read(kind, variant, rest[2:])
    except _OptionError:
        raise
    except ValueError:
        # The reader's own message may quote a password that it took for a port.
        raise ValueError(
            f"the Redis URL cannot be read; accepted are {SCHEMES}, with '/', '#', '?', '@' and '%' in a login "
            "or a path percent-encoded"
        ) from None


class _OptionError(ValueError):
    """Raised when an option is wrong; its message names no value that may be a secret."""


_READERS = {"": Deployment.SINGLE, "sentinel": Deployment.SENTINEL, "cluster": Deployment.CLUSTER}


def _read(kind: str, variant: str, rest: str) -> RedisAddress:
    place, _, query = rest.partition("?")
    authority, slash, path = place.partition("/")
    if "@" in path or "@" in query:
        # Of a login, of which a character that ends the authority was not encoded.
        raise ValueError("an @ after the hosts")
    options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    if options.keys() - set(OPTIONS):
        raise _OptionError(f"the Redis URL has an option that is unknown; accepted are {', '.join(OPTIONS)}")
    user, _, listed = authority.rpartition("@")
    deployment = _READERS[variant]
    login = _credentials(user, options)
    if kind == "unix":
        return RedisAddress(
            deployment, (Host(unquote(slash + path), 0),), login, database=_database(options.get("db", ""))
        )
    port = DEFAULT_SENTINEL_PORT if deployment is Deployment.SENTINEL else DEFAULT_PORT
    hosts = tuple(_host(host, port) for host in listed.split(",") if host)
    if deployment is Deployment.SINGLE:
        hosts = hosts or (Host("localhost", port),)
    service, database = "", unquote(path).strip("/")
    if deployment is Deployment.SENTINEL:
        service, _, database = database.partition("/")
    if len(hosts) != 1 if deployment is Deployment.SINGLE else not hosts:
        raise ValueError("the wrong number of hosts")
    if deployment is Deployment.CLUSTER and (database or "db" in options):
        raise ValueError("a cluster has one database")
    if deployment is Deployment.SENTINEL and not service:
        raise ValueError("a Sentinel URL names its service")
    return RedisAddress(
        deployment,
        hosts,
        login,
        service=service,
        database=_database(options.get("db", "") or database),
        tls=_tls(options) if kind == "rediss" else None,
        sentinel_credentials=_sentinel_credentials(options),
    )


def _database(text: str) -> int:
    number = int(text or 0)
    if number < 0:
        raise ValueError("a database has a number")
    return number


def _credentials(user: str, options: Mapping[str, str]) -> Credentials:
    path = options.get("credentials_file")
    if path is not None:
        if user:
            raise _OptionError("the Redis URL has both a user and credentials_file; one of them is accepted")
        return CredentialsFile(Path(path))
    if not user:
        return NO_LOGIN
    name, _, password = user.partition(":")
    return FixedCredentials(Login(unquote(name) or DEFAULT_USER, unquote(password)))


def _sentinel_credentials(options: Mapping[str, str]) -> Credentials:
    name, password = (options.get(f"sentinel_{part}") for part in ("username", "password"))
    if name is None and password is None:
        return NO_LOGIN
    return FixedCredentials(Login(name or DEFAULT_USER, password or ""))


def _tls(options: Mapping[str, str]) -> Tls:
    checks = options.get("ssl_cert_reqs", "required").lower()
    named = options.get("ssl_check_hostname", "false" if checks == "none" else "true").lower()
    if checks not in _CHECKS or named not in _SWITCHES:
        raise _OptionError(
            f"the Redis URL's ssl_cert_reqs or ssl_check_hostname is wrong; accepted are {', '.join(_CHECKS)} and "
            "true, false"
        )
    return Tls(
        options.get("ssl_ca_certs"),
        options.get("ssl_certfile"),
        options.get("ssl_keyfile"),
        checks=_CHECKS[checks],
        check_hostname=_SWITCHES[named] and checks != "none",
    )


def _host(text: str, default_port: int) -> Host:
    parts = urlsplit(f"//{text}")
    if not parts.hostname or parts.netloc != text or not _HOST.fullmatch(text):
        raise ValueError("a host has no name")
    return Host(parts.hostname, parts.port or default_port)
