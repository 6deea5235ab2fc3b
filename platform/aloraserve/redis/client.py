"""From a URL to a Redis client: one server, one behind Sentinels, or a cluster; with TLS and ACL users."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from redis.asyncio import ConnectionPool, Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import ConstantBackoff, NoBackoff

DEFAULT_PORT = 6379
DEFAULT_SENTINEL_PORT = 26379
CLUSTER_SHARDS = 64
"""Into how many slots a cluster's chains are spread; every gateway and replica of a fleet has to agree."""
CLUSTER_TRIES = 4
SCHEMES = (
    "redis://, rediss:// and unix:// (one server), redis+sentinel:// and rediss+sentinel:// "
    "(host:port,host:port/service/db), redis+cluster:// and rediss+cluster:// (host:port,host:port)"
)


@dataclass(frozen=True, slots=True)
class RedisClient:
    """An open client.

    Args:
        redis: a client of one server (also behind Sentinels), or of a cluster.
        shards: how many hash tags the chains are spread over; 1 where there is one server.
        sentinels: clients that ask who the primary is; ``redis`` does not close them.
    """

    redis: Redis | RedisCluster
    shards: int
    sentinels: tuple[Redis, ...] = ()

    @property
    def is_cluster(self) -> bool:
        """Whether keys lie on several servers."""
        return isinstance(self.redis, RedisCluster)

    async def close(self) -> None:
        """Close every connection."""
        for client in (self.redis, *self.sentinels):
            await client.aclose()


def milliseconds(seconds: float) -> int:
    """Return a time as servers take it, at least 1."""
    return max(1, round(seconds * 1000))


def fleet_prefix(namespace: str) -> str:
    """Return what every key of a fleet begins with; its hash tag keeps them in one slot of a cluster.

    Raises:
        ValueError: the namespace is empty or has a brace.
    """
    if not namespace or set(namespace) & set("{}"):
        raise ValueError(f"namespace is {namespace!r}; a non-empty string without braces is needed")
    return f"{{aloraserve:{namespace}}}:"


def redacted_url(url: str) -> str:
    """Return ``url`` without its passwords, for messages and logs."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "<unreadable Redis URL>"
    user, at, host = parts.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    query = [(key, "***" if "password" in key else value) for key, value in parse_qsl(parts.query)]
    netloc = f"{name}{':***' if colon else ''}{at}{host}"
    # Without slashes a mistyped URL has its password in the path, and nothing says where.
    if not parts.netloc and "@" in parts.path:
        return f"{parts.scheme}:***"
    options = f"?{urlencode(query, safe='*')}" if query else ""
    return f"{parts.scheme}://{netloc}{parts.path}{options}"


def open_client(url: str, *, timeout_s: float, max_connections: int) -> RedisClient:
    """Return a client that connects when it is first used and retries nothing that a server answered.

    Args:
        url: one of :data:`SCHEMES`. User and password come before the hosts, percent-encoded; ``ssl_ca_certs``,
            ``ssl_certfile``, ``ssl_keyfile``, ``ssl_cert_reqs`` and ``ssl_check_hostname`` follow as a query. With
            Sentinels the query's ``sentinel_username`` and ``sentinel_password`` are for them.
        timeout_s: of connecting and of each read.
        max_connections: the most that are open to a server.

    Raises:
        ValueError: the URL is none of these. The message repeats nothing of it.
    """
    scheme = url.split(":", 1)[0].lower()
    try:
        if scheme in ("redis", "rediss", "unix"):
            return _single(url, timeout_s, max_connections)
        if scheme in ("redis+sentinel", "rediss+sentinel"):
            return _sentinel(url, timeout_s, max_connections)
        if scheme in ("redis+cluster", "rediss+cluster"):
            return _cluster(url, timeout_s, max_connections)
    except (ValueError, TypeError):
        # The reader's own message may quote a password that it took for a port.
        raise ValueError(f"the Redis URL cannot be read; accepted are {SCHEMES}") from None
    raise ValueError(f"the Redis URL has the scheme {scheme[:20]!r}; accepted are {SCHEMES}")


def _single(url: str, timeout_s: float, max_connections: int) -> RedisClient:
    pool = ConnectionPool.from_url(
        url,
        max_connections=max_connections,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
    )
    return RedisClient(Redis.from_pool(pool), shards=1)


def _sentinel(url: str, timeout_s: float, max_connections: int) -> RedisClient:
    hosts, options, path = _hosts(url, DEFAULT_SENTINEL_PORT)
    service, _, database = path.strip("/").partition("/")
    if not service:
        raise ValueError("a Sentinel URL names its service")
    # A Sentinel that hangs must leave time to ask another one.
    each_s = timeout_s / (len(hosts) + 1)
    patience: dict[str, Any] = {"socket_timeout": each_s, "socket_connect_timeout": each_s}
    secure = {key: value for key, value in options.items() if key.startswith("ssl")}
    own = {key: options.pop(f"sentinel_{key}", None) for key in ("username", "password")}
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        hosts,
        sentinel_kwargs={**patience, **secure, **own, "retry": Retry(NoBackoff(), 0)},
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        **options,
        db=int(database or 0),
    )
    redis = sentinel.master_for(service, retry=Retry(NoBackoff(), 0), max_connections=max_connections)
    return RedisClient(redis, shards=1, sentinels=tuple(sentinel.sentinels))


def _cluster(url: str, timeout_s: float, max_connections: int) -> RedisClient:
    hosts, options, path = _hosts(url, DEFAULT_PORT)
    if path.strip("/"):
        raise ValueError("a cluster has one database")
    # A server that hangs must leave time to learn who took its place and to ask there.
    each_s = timeout_s / CLUSTER_TRIES
    redis = RedisCluster(
        startup_nodes=[ClusterNode(host, port) for host, port in hosts],
        max_connections=max_connections,
        socket_timeout=each_s,
        socket_connect_timeout=each_s,
        retry=Retry(ConstantBackoff(0.02), 2),
        # Otherwise every so many moved slots it closes its connections, calls under way on them included.
        reinitialize_steps=0,
        **options,
    )
    return RedisClient(redis, shards=CLUSTER_SHARDS)


def _hosts(url: str, default_port: int) -> tuple[list[tuple[str, int]], dict[str, Any], str]:
    """Return the hosts, the connections' options and the path of a URL with several hosts."""
    scheme, _, rest = url.partition("://")
    secure = scheme.lower().startswith("rediss")
    place, _, query = rest.partition("?")
    authority, _, path = place.partition("/")
    user, at, listed = authority.rpartition("@")
    hosts = [_host(host, default_port) for host in listed.split(",") if host]
    if not hosts:
        raise ValueError("no host")
    options = parse_url(f"{'rediss' if secure else 'redis'}://{user}{at}{listed.split(',')[0]}/?{query}")
    given: dict[str, Any] = {key: value for key, value in options.items() if key not in ("host", "port", "db")}
    if given.pop("connection_class", None) is SSLConnection:
        given["ssl"] = True
    return hosts, given, unquote(path)


def _host(text: str, default_port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("a host has no name")
    return parts.hostname, parts.port or default_port
